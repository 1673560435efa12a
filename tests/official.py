"""Files in the official layout, written from the layout's own description and nothing of ours.

google-research/big_transfer stores a network as arrays named like
``resnet/block1/unit01/a/standardized_conv2d/kernel``, kernels in the order height, width, in, out.
Some of its files number their layers (``standardized_conv2d_17``).
"""

import itertools
from pathlib import Path

import numpy as np

TINY = {"depths": (1, 2, 1, 1), "stem": 16, "widths": (32, 64, 128, 256)}
"""Small enough to load in milliseconds; 8 groups divide every width."""

TINY_CONFIG = {
    "embedding_size": 16,
    "hidden_sizes": (32, 64, 128, 256),
    "depths": (1, 2, 1, 1),
    "num_groups": 8,
}
"""The same as arguments of BitConfig."""


def official_shape(variant):
    """Depths and widths of a published network."""
    depth, width = variant.lstrip("R").split("x")
    depths = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}[depth]
    width = int(width)
    widths = tuple(size * width for size in (256, 512, 1024, 2048))
    return {"depths": depths, "stem": 64 * width, "widths": widths}


def official_arrays(
    depths=(1, 2, 1, 1),
    stem=16,
    widths=(32, 64, 128, 256),
    *,
    head=10,
    numbered=False,
    dtype=np.float32,
    seed=0,
):
    """Random weights of a network, by their official names.

    Args:
        depths: Units of each block.
        stem: Width of the root block.
        widths: Width of each block.
        head: Size of the head; 0 leaves it out.
        numbered: Whether every layer's name ends in a number.
        dtype: Type of the arrays.
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    count = itertools.count(1)

    def normal(*shape, mean=0.0, std=0.1):
        return (mean + std * random.standard_normal(shape)).astype(dtype)

    def layer(name):
        return f"{name}_{next(count)}" if numbered else name

    def convolution(name, size, cin, cout):
        return {f"{name}/{layer('standardized_conv2d')}/kernel": normal(size, size, cin, cout)}

    def group_norm(name, channels):
        name = f"{name}/{layer('group_norm')}"
        return {f"{name}/gamma": normal(channels, mean=1.0), f"{name}/beta": normal(channels)}

    arrays = convolution("resnet/root_block", 7, 3, stem)
    width_in = stem
    for block, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for unit in range(1, depth + 1):
            path, middle = f"resnet/block{block}/unit{unit:02d}", width // 4
            arrays |= group_norm(f"{path}/a", width_in) | convolution(
                f"{path}/a", 1, width_in, middle
            )
            if unit == 1:
                arrays |= convolution(f"{path}/a/proj", 1, width_in, width)
            arrays |= group_norm(f"{path}/b", middle) | convolution(f"{path}/b", 3, middle, middle)
            arrays |= group_norm(f"{path}/c", middle) | convolution(f"{path}/c", 1, middle, width)
            width_in = width
    arrays |= group_norm("resnet", width_in)
    if head:
        name = f"resnet/head/{layer('conv2d')}"
        arrays |= {
            f"{name}/kernel": normal(1, 1, width_in, head, std=0.05),
            f"{name}/bias": normal(head),
        }
    return arrays


def write_official(path: Path, arrays=None, **network) -> Path:
    """Writes such arrays (of ``official_arrays``, if none are given) as an .npz."""
    np.savez(path, **(official_arrays(**network) if arrays is None else arrays))
    return path
