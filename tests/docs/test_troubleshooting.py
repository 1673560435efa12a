"""Every message on the troubleshooting page is raised, and says what the page says."""

import doctest
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from official import TINY_CONFIG, official_arrays, write_official
from pages import DOCS, blocks
from PIL import Image

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitImageProcessor
from bit_backbone.checkpoints import convert, load
from bit_backbone.datasets import CocoFolder
from bit_backbone.finetune import LabelledImages
from bit_backbone.finetune.mixup import mix_neighbours
from bit_backbone.torchvision import bit_fpn_backbone, fasterrcnn_bit_fpn
from bit_backbone.training.saving import RunStore
from bit_backbone.training.state import RunState
from bit_backbone.utils.extras import require
from bit_backbone.utils.processes import ONE_PROCESS

PAGE = "troubleshooting.md"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# The messages of the page, each by the anchor of the heading it stands under.
MESSAGES = dict(
    zip(
        re.findall(r"^### .+ \{ #([\w-]+) \}$", TEXT, re.MULTILINE),
        (block.code for block in blocks(PAGE) if block.language == "text"),
        strict=True,
    )
)


def tiny() -> BitConfig:
    return BitConfig(**TINY_CONFIG)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def official(path: Path, **network: object) -> Path:
    return write_official(path / "bit.npz", official_arrays(**network))


def large_image(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path / "photo.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 89 million, unless someone lowers it
        BitImageProcessor()(path / "photo.png")


def another_network(path: Path) -> None:
    BitBackbone(tiny().replace(depths=(1, 1, 1, 1)), weights=official(path))


def another_head(path: Path) -> None:
    load(BitForImageClassification(tiny().replace(num_labels=7)), official(path, head=10))


def offline(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr(torch.hub, "get_dir", lambda: str(path))
        BitBackbone("R50x1", weights="BiT-M-R50x1")


def unreachable(path: Path) -> None:
    def reject(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr(torch.hub, "get_dir", lambda: str(path))
        patch.setattr(torch.hub, "download_url_to_file", reject)
        BitBackbone("R50x1", weights="BiT-M-R50x1")


def pickled(path: Path) -> None:
    arrays = official_arrays()
    arrays["resnet/group_norm/beta"] = np.array([{}], dtype=object)
    load(BitBackbone(tiny()), write_official(path / "bit.npz", arrays))


def truncated(path: Path) -> None:
    content = official(path).read_bytes()
    load(BitBackbone(tiny()), write(path / "cut.npz", content[: len(content) // 2]))


def target_exists(path: Path) -> None:
    convert(official(path), write(path / "bit.pth", b""), "torch")


def missing_extra(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pycocotools.mask", None)
        require("pycocotools.mask", "demo", "reading polygons")


def other_settings(path: Path) -> None:
    state = RunState(1, {"base_lr": 0.003}, {}, {}, {})
    state.check_settings({"base_lr": 0.1}, path)


def annotations(path: Path) -> None:
    (path / "images").mkdir()
    record = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, -1, 5], "area": 5}
    document = {"images": [], "annotations": [record], "categories": [{"id": 1, "name": "cat"}]}
    (path / "instances.json").write_text(json.dumps(document))
    CocoFolder(path)


def another_run(path: Path) -> None:
    def reject(folder: Path) -> None:
        raise BlockingIOError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bit_backbone.training.saving.lock_folder", reject)
        RunStore(path, ONE_PROCESS, sharded=False).__enter__()


def wrong_size(path: Path) -> None:
    (path / "images").mkdir()
    Image.new("RGB", (30, 40)).save(path / "images" / "turned.png")
    image = {"id": 1, "file_name": "turned.png", "width": 40, "height": 30}
    document = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (path / "instances.json").write_text(json.dumps(document))
    CocoFolder(path)


def deep_image(path: Path) -> None:
    BitImageProcessor()(Image.fromarray(np.zeros((8, 8), np.int32)))


def several_sizes(path: Path) -> None:
    images = [np.zeros((size, 48, 3), np.uint8) for size in (32, 64)]
    BitImageProcessor(do_resize=False, do_center_crop=False)(images, return_tensors="pt")


def without_detectron2(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in sys.modules if n.startswith("bit_backbone.detectron2")]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "detectron2", None)
        import bit_backbone.detectron2  # noqa: F401


# How a reader comes by each of them.
PROVOKED: dict[str, Callable[[Path], object]] = {
    "integer-pixels": lambda _: BitBackbone(tiny())(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)),
    "no-batch": lambda _: BitBackbone(tiny())(torch.zeros(3, 64, 64)),
    "float-range": lambda _: BitImageProcessor()(np.linspace(0, 0.5, 192).reshape(8, 8, 3)),
    "sizes": several_sizes,
    "deep": deep_image,
    "large-image": large_image,
    "order": lambda _: BitConfig(out_indices=[3, 1]),
    "unknown-output": lambda _: BitConfig(out_features=["res5"]),
    "groups": lambda _: BitConfig(embedding_size=16, hidden_sizes=(64,), depths=(1,)),
    "variant": lambda _: BitConfig.from_variant("R18x1"),
    "other-network": another_network,
    "classes": another_head,
    "unknown-name": lambda _: BitBackbone("R50x1", weights="BiT-M-R50x2"),
    "unreachable": unreachable,
    "offline": offline,
    "truncated": truncated,
    "web-page": lambda path: load(
        BitBackbone(tiny()), write(path / "bit.npz", b"<!DOCTYPE html><title>Sign in</title>")
    ),
    "pickled": pickled,
    "exists": target_exists,
    "extra": missing_extra,
    "settings": other_settings,
    "two-runs": another_run,
    "no-images": LabelledImages,
    "annotations": annotations,
    "wrong-size": wrong_size,
    "odd-batch": lambda _: mix_neighbours(torch.zeros(3, 1), 0.5),
    "enum": lambda _: fasterrcnn_bit_fpn(weights="COCO_V1"),
    "levels": lambda _: bit_fpn_backbone(tiny().replace(output_stride=16)),
    "network-argument": lambda _: fasterrcnn_bit_fpn(output_stride=16),
    "no-detectron2": without_detectron2,
}


def test_every_message_of_the_page_is_provoked() -> None:
    assert list(PROVOKED) == list(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_is_the_one_that_comes(name: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, ImportError, RuntimeError)) as caught:
        PROVOKED[name](tmp_path)
    told = f"{type(caught.value).__name__}: {caught.value}\n"
    assert doctest.OutputChecker().check_output(MESSAGES[name], told, FLAGS), told
