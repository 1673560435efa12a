"""Data sets: DigitScenes, made on the spot, and folders in COCO's format."""
