"""``python -m bit_backbone`` is the command ``bit-backbone``."""

import sys

from bit_backbone.cli import main

sys.exit(main())
