"""Every picture of the feature maps of photographs: `bit-backbone features` with all of them.

    python tools/visualize_features.py photo.jpg --weights BiT-M-R50x1 --output pictures

Takes the options of `bit-backbone features`; writes principal components and a channel mosaic of
each stage, and a histogram of the norms of all stages.
"""

import sys

from bit_backbone.cli import main
from bit_backbone.cli.features import PICTURES

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--pictures" not in arguments:
        arguments += ["--pictures", *PICTURES]
    sys.exit(main(["features", *arguments]))
