"""Convert a checkpoint from a checkout: the same as ``bit-backbone convert``."""

import sys

from bit_backbone.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
