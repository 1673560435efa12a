"""Training torchvision's segmenters on BiT: the model as the trainer takes it, and mean IoU."""
