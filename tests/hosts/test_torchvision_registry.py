"""Importing bit_backbone.torchvision, and what torchvision's registry then knows."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import get_model, get_model_builder, get_model_weights, list_models

import bit_backbone.torchvision
from bit_backbone import BitConfig
from bit_backbone.checkpoints import catalog
from bit_backbone.torchvision.weights import CLASSIFIERS, checkpoint_of

ROOT = Path(__file__).parents[2]
CLASSIFIER_NAMES = [f"bit_{variant.lower()}" for variant in CLASSIFIERS]
DENSE_NAMES = [
    "deeplabv3_bit",
    "fasterrcnn_bit_fpn",
    "fasterrcnn_bit_tiny_fpn",
    "fcn_bit",
    "fcos_bit_fpn",
    "keypointrcnn_bit_fpn",
    "maskrcnn_bit_fpn",
    "retinanet_bit_fpn",
]
TINY = {
    "embedding_size": 16,
    "hidden_sizes": (32, 64, 128, 256),
    "depths": (1, 1, 1, 1),
    "num_groups": 8,
}


class TestRegistry:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("bit*", CLASSIFIER_NAMES),
            ("*bit*", CLASSIFIER_NAMES + DENSE_NAMES),
            ("*_bit_fpn", [name for name in DENSE_NAMES if name.endswith("_bit_fpn")]),
        ],
    )
    def test_list_models(self, pattern, names):
        assert list_models(include=pattern) == sorted(names)

    def test_list_models_of_this_package(self):
        ours = list_models(module=bit_backbone.torchvision)
        assert ours == sorted(CLASSIFIER_NAMES + DENSE_NAMES)

    @pytest.mark.parametrize("name", CLASSIFIER_NAMES + DENSE_NAMES)
    def test_builders_are_found_in_any_case(self, name):
        assert get_model_builder(name) is getattr(bit_backbone.torchvision, name)
        assert get_model_builder(name.upper()) is get_model_builder(name)
        # the tiny detector has no weights but those of the full one: none
        enum = f"{name.replace('_tiny', '')}_weights"
        assert get_model_weights(name).__name__.lower() == enum

    @pytest.mark.parametrize("name", DENSE_NAMES)
    def test_nothing_is_published_for_dense_models(self, name):
        assert list(get_model_weights(name)) == []

    def test_get_model(self):
        model = get_model("FCN_BiT", variant=BitConfig(**TINY), num_classes=3)
        assert isinstance(model, torchvision.models.segmentation.FCN)
        assert get_model("bit_r50x1", **TINY, num_classes=3).classifier.out_features == 3


def run(code, cwd):
    """Runs code in a fresh interpreter and returns what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def plugin(tmp_path):
    """Another package's models, registered under names of their own, and one under ours."""
    (tmp_path / "plugin.py").write_text(
        textwrap.dedent("""
            from torchvision.models._api import register_model

            @register_model()
            def fasterrcnn_other_fpn(): ...
        """)
    )
    (tmp_path / "thief.py").write_text(
        textwrap.dedent("""
            from torchvision.models._api import register_model

            @register_model()
            def fcn_bit(): ...
        """)
    )
    return tmp_path


class TestImport:
    def test_fresh_process(self, tmp_path):
        code = """
            import torchvision
            before = set(torchvision.models.list_models())
            import bit_backbone.torchvision
            import bit_backbone.torchvision as again
            new = set(torchvision.models.list_models()) - before
            print(len(new), again.bit_fpn_backbone.__module__, *sorted(new))
        """
        names = sorted(CLASSIFIER_NAMES + DENSE_NAMES)
        assert run(code, tmp_path) == " ".join(["14 bit_backbone.torchvision.features", *names])

    def test_the_package_alone_registers_nothing(self, tmp_path):
        code = """
            import sys, bit_backbone
            from bit_backbone import BitBackbone
            print("torchvision" in sys.modules, "bit_backbone.torchvision" in sys.modules)
        """
        assert run(code, tmp_path) == "False False"

    def test_imported_again(self, tmp_path):
        code = """
            import sys, torchvision, bit_backbone.torchvision as first
            for name in [name for name in sys.modules if name.startswith("bit_backbone")]:
                del sys.modules[name]
            import bit_backbone.torchvision as second
            assert first is not second
            assert torchvision.models.get_model_builder("fcn_bit") is second.fcn_bit
            print(len(torchvision.models.list_models(include="*bit*")))
        """
        assert run(code, tmp_path) == "14"

    @pytest.mark.parametrize(
        "order", ["plugin, bit_backbone.torchvision", "bit_backbone.torchvision, plugin"]
    )
    def test_beside_another_plugin(self, plugin, order):
        code = f"""
            import {order}
            from torchvision.models import list_models
            print(*list_models(include=["*other*", "fcn_bit"]))
        """
        assert run(code, plugin) == "fasterrcnn_other_fpn fcn_bit"

    def test_a_taken_name(self, plugin):
        code = """
            import thief
            try:
                import bit_backbone.torchvision
            except ValueError as error:
                print(error)
        """
        message = run(code, plugin)
        assert "thief has registered 'fcn_bit' already" in message


MEMBERS = [member for enum in CLASSIFIERS.values() for member in enum]


class TestWeights:
    @pytest.mark.parametrize("variant", CLASSIFIERS)
    def test_members(self, variant):
        enum = CLASSIFIERS[variant]
        assert enum.DEFAULT is enum.IMAGENET1K_BIT_M
        assert enum.__name__ == f"BiT_{variant}_Weights"
        assert all(catalog()[member.meta["checkpoint"]].variant == variant for member in enum)

    @pytest.mark.parametrize("member", MEMBERS, ids=repr)
    def test_meta(self, member):
        entry = catalog()[member.meta["checkpoint"]]
        assert member.url == entry.location
        assert member.meta["license"] == "Apache-2.0"
        assert member.meta["recipe"].startswith("https://")
        with torch.device("meta"):
            builder = get_model_builder(f"bit_{entry.variant.lower()}")
            model = builder(num_classes=member.meta["num_classes"])
        assert member.meta["num_params"] == sum(p.numel() for p in model.parameters())
        categories = member.meta.get("categories")
        assert (categories is None) == (member.meta["num_classes"] == 21843)
        assert categories is None or len(categories) == member.meta["num_classes"]

    def test_published_accuracy(self):
        metrics = get_model_weights("bit_r50x1").IMAGENET1K_BIT_M.meta["_metrics"]
        assert metrics == {"ImageNet-1K": {"acc@1": 80.19, "acc@5": 95.63}}
        assert get_model_weights("bit_r50x1").IMAGENET21K_BIT_M.meta["_metrics"] == {}

    @pytest.mark.parametrize("member", MEMBERS, ids=repr)
    def test_copies_and_pickles(self, member):
        assert copy.deepcopy(member) is member
        assert pickle.loads(pickle.dumps(member)) is member

    @pytest.mark.parametrize(
        ("member", "size"),
        [
            ("IMAGENET1K_BIT_M", (480, 480)),
            ("IMAGENET21K_BIT_M", (480, 480)),
            ("IMAGENET1K_DISTILLED_224", (224, 224)),
            ("IMAGENET1K_DISTILLED_160", (160, 160)),
        ],
    )
    def test_transforms(self, member, size):
        transforms = get_model_weights("bit_r50x1")[member].transforms()
        image = torch.zeros(3, 300, 500, dtype=torch.uint8)
        image[:, :, :250] = 255
        pixels = transforms(image)
        assert pixels.shape == (3, *size)
        assert (pixels.min(), pixels.max()) == (-1, 1)
        assert str(size[0]) in transforms.describe()
        torch.testing.assert_close(torch.jit.script(transforms)(image), pixels)

    def test_transforms_squash_as_the_official_code_does(self):
        """No part of an image is cut off, whatever its shape."""
        image = torch.zeros(3, 100, 500, dtype=torch.uint8)
        image[:, :, :50] = image[:, :, -50:] = 255
        pixels = get_model_weights("bit_r50x1").DEFAULT.transforms()(image)
        assert (pixels[:, :, :40] == 1).all()
        assert (pixels[:, :, -40:] == 1).all()

    @pytest.mark.parametrize(
        ("source", "variant", "expected"),
        [
            (CLASSIFIERS["R50x1"].IMAGENET21K_BIT_M, "R50x1", "BiT-M-R50x1"),
            ("BiT_R50x1_Weights.IMAGENET21K_BIT_M", "R50x1", "BiT-M-R50x1"),
            ("BiT_R101x1_Weights.DEFAULT", "R101x1", "BiT-M-R101x1-ILSVRC2012"),
            ("IMAGENET1K_BIT_S", "R152x4", "BiT-S-R152x4"),
            ("DEFAULT", "R50x3", "BiT-M-R50x3-ILSVRC2012"),
            ("BiT-M-R50x1", "R50x1", "BiT-M-R50x1"),
            ("runs/backbone.pth", "R50x1", "runs/backbone.pth"),
        ],
    )
    def test_names_of_backbone_weights(self, source, variant, expected):
        assert checkpoint_of(source, BitConfig.from_variant(variant)) == expected

    @pytest.mark.parametrize("source", ["BiT_R50x1_Weights.IMAGENET22K", "BiT_R50x1_Weights."])
    def test_unknown_member(self, source):
        with pytest.raises(ValueError, match=r"IMAGENET1K_BIT_S, IMAGENET21K_BIT_M.*got"):
            checkpoint_of(source, BitConfig())
