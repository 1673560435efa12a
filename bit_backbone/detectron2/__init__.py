"""BiT in detectron2: importing this registers the backbones and the ``bit://`` weights.

    import bit_backbone.detectron2

    cfg = get_cfg()
    bit_backbone.detectron2.add_bit_config(cfg)
    cfg.merge_from_file(get_config_file("COCO-Detection/faster_rcnn_BiT_R50x1_FPN_1x.yaml"))

The class for LazyConfig is ``Detectron2BitBackbone``. Inside this folder ``import detectron2``
means the host.
"""

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"bit_backbone.detectron2 needs detectron2, which cannot be imported ({error}). It is not "
        "on PyPI: install it, compiled against your torch, with\n"
        "    pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2.git\n"
        "(https://detectron2.readthedocs.io/en/latest/tutorials/install.html). The rest of "
        "bit_backbone works without it."
    ) from error

from bit_backbone.detectron2.backbone import Detectron2BitBackbone
from bit_backbone.detectron2.builders import (
    build_bit_backbone,
    build_bit_deeplab_backbone,
    build_bit_fpn_backbone,
    build_fcos_bit_fpn_backbone,
    build_retinanet_bit_fpn_backbone,
)
from bit_backbone.detectron2.config import add_bit_config
from bit_backbone.detectron2.datasets import register_digit_scenes
from bit_backbone.detectron2.res5 import BitRes5
from bit_backbone.detectron2.weights import register_handlers
from bit_backbone.detectron2.zoo import get_config_file, list_config_files

__all__ = [
    "BitRes5",
    "Detectron2BitBackbone",
    "add_bit_config",
    "build_bit_backbone",
    "build_bit_deeplab_backbone",
    "build_bit_fpn_backbone",
    "build_fcos_bit_fpn_backbone",
    "build_retinanet_bit_fpn_backbone",
    "get_config_file",
    "list_config_files",
    "setup_environment",
]

register_handlers()
register_digit_scenes()


def setup_environment() -> None:
    """Does nothing more; ``DETECTRON2_ENV_MODULE=bit_backbone.detectron2`` asks for it."""
