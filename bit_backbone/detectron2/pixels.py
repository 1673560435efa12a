"""Pixels as BiT expects them: RGB, mean and std 127.5, where detectron2 defaults to BGR.

A wrong std cannot be seen after the stem, which GroupNorm makes up for; a wrong order of colours
or another mean changes every feature without any error.
"""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

__all__ = ["PIXEL_VALUE", "warn_about_pixels"]

PIXEL_VALUE = 127.5  # (pixels / 255 - 0.5) / 0.5 in detectron2's terms, both mean and std

# detectron2 shows what its own loggers say, and nobody else's.
_LOGGER = logging.getLogger("detectron2.bit_backbone")


def warn_about_pixels(cfg: CfgNode) -> None:
    """Logs a warning if a configuration feeds BiT other pixels than it was trained on."""
    channels = len(cfg.MODEL.PIXEL_MEAN)
    statistics = [PIXEL_VALUE] * channels
    expected: dict[str, object] = {"MODEL.PIXEL_MEAN": statistics, "MODEL.PIXEL_STD": statistics}
    given: dict[str, object] = {
        key: list(getattr(cfg.MODEL, key.removeprefix("MODEL."))) for key in expected
    }
    if channels == 3:
        expected["INPUT.FORMAT"], given["INPUT.FORMAT"] = "RGB", cfg.INPUT.FORMAT
    wrong = [key for key in expected if given[key] != expected[key]]
    if wrong:
        _LOGGER.warning(
            "BiT was trained on RGB pixels with mean and std %s, and this configuration has %s; "
            "set %s, or the pretrained features are wrong",
            PIXEL_VALUE,
            ", ".join(f"{key} {given[key]}" for key in wrong),
            ", ".join(f"{key}: {expected[key]}" for key in wrong),
        )
