"""Train a detector with a BiT backbone, as `bit-backbone train` does; see --help."""

import sys

from bit_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
