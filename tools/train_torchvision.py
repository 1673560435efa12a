"""Train a detector with a BiT backbone on a folder in COCO's format; see --help."""

import sys

from bit_backbone.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
