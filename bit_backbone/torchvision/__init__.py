"""BiT in torchvision."""
