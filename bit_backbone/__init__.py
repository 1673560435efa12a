"""Big Transfer (BiT) as a backbone for dense prediction."""

__version__ = "0.1.0.dev0"
