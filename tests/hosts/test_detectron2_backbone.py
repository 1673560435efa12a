"""The registered builders and the Backbone class, as detectron2 uses them."""

import importlib
import itertools
import logging
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from detectron2.solver.build import get_default_optimizer_params
from tiny_detectron2 import RGB, TINY, tiny_cfg

from bit_backbone import BitBackbone, BitConfig
from bit_backbone.config import DENSE_FEATURE_NORM
from bit_backbone.detectron2 import Detectron2BitBackbone, add_bit_config, builders
from bit_backbone.detectron2.config import bit_config, bit_node

BUILDERS = list(builders.__all__)
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def test_every_builder_is_registered_once() -> None:
    assert all(name in BACKBONE_REGISTRY for name in BUILDERS)
    importlib.reload(builders)
    with pytest.raises(AssertionError, match="already registered"):
        BACKBONE_REGISTRY.register(type(BUILDERS[0], (), {}))


@pytest.mark.parametrize("name", BUILDERS)
def test_builders_make_detectron2_backbones(name: str) -> None:
    cfg = tiny_cfg(BACKBONE__NAME=name)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res5"]
    backbone = build_backbone(cfg)
    assert isinstance(backbone, Backbone)
    features = backbone(torch.rand(1, 3, 128, 64))
    assert {n: (s.channels, 128 // s.stride) for n, s in backbone.output_shape().items()} == {
        n: tuple(f.shape[1:3]) for n, f in features.items()
    }


def test_builders_work_without_the_node() -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    with torch.device("meta"):
        backbone = builders.build_bit_fpn_backbone(cfg, RGB)
    expected = BitConfig(out_features=STAGES, feature_norm=DENSE_FEATURE_NORM)
    assert backbone.bottom_up.config == expected


def test_the_node_is_complete_and_adding_it_twice_keeps_values() -> None:
    cfg = get_cfg()
    cfg.freeze()
    add_bit_config(cfg)
    assert cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL.BIT.VARIANT = "R101x3"
    del cfg.MODEL.BIT["NUM_GROUPS"]
    add_bit_config(cfg)
    assert (cfg.MODEL.BIT.VARIANT, cfg.MODEL.BIT.NUM_GROUPS) == ("R101x3", 32)
    # the rest of BitConfig is the classifier's, or comes from elsewhere in detectron2's node
    others = {"num_channels", "out_indices", "num_labels", "id2label", "label2id", "problem_type",
              "output_hidden_states", "return_dict"}  # fmt: skip
    arguments = {f.upper() for f in BitConfig.__dataclass_fields__} - {f.upper() for f in others}
    assert set(cfg.MODEL.BIT) == arguments | {
        "VARIANT",
        "GRAD_CHECKPOINTING",
        "ACTIVATION_RECOMPUTE",
    }


@pytest.mark.parametrize(
    ("given", "layer_type", "expected"),
    [
        (None, "preactivation", DENSE_FEATURE_NORM),
        ("", "preactivation", DENSE_FEATURE_NORM),
        (None, "", DENSE_FEATURE_NORM),
        ("none", "preactivation", "none"),
        ("groupnorm", "preactivation", "groupnorm"),
        (None, "bottleneck", "none"),
        ("groupnorm", "bottleneck", "groupnorm"),
    ],
)
def test_feature_norm_of_dense_tasks(given: str | None, layer_type: str, expected: str) -> None:
    cfg = tiny_cfg(BIT__FEATURE_NORM=given, BIT__LAYER_TYPE=layer_type)
    assert bit_config(cfg, 3, ["stage2"]).feature_norm == expected


def test_every_key_reaches_the_network() -> None:
    options = {
        "WIDTH_FACTOR": 2,
        "LAYER_TYPE": "preactivation",
        "HIDDEN_ACT": "gelu",
        "OUTPUT_STRIDE": 16,
        "GLOBAL_PADDING": "same",
        "EMBEDDING_DYNAMIC_PADDING": True,
        "FEATURE_NORM": "groupnorm",
        "DROP_PATH_RATE": 0.25,
        "WEIGHT_STANDARDIZATION_EPS": 1e-8,
        "GRAD_CHECKPOINTING": True,
        "ACTIVATION_RECOMPUTE": True,
        "OUT_FEATURES": ["stem", "res4"],
    }
    cfg = tiny_cfg(**{f"BIT__{key}": value for key, value in options.items()})
    assert set(options) | {"VARIANT"} | {key.upper() for key in TINY} == set(bit_node(cfg))
    backbone = builders.build_bit_backbone(cfg, RGB)
    checkpointing = options.pop("GRAD_CHECKPOINTING")
    recompute = options.pop("ACTIVATION_RECOMPUTE")
    out_features = options.pop("OUT_FEATURES")
    expected = BitConfig(
        **TINY, **{k.lower(): v for k, v in options.items()}, out_features=("stem", "stage3")
    )
    assert backbone.config == expected
    assert list(backbone.output_shape()) == out_features
    assert backbone.stage1[0].grad_checkpointing is checkpointing
    assert backbone.stage1[0].activation_recompute is recompute


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("BIT__VARIANT", "R18", "a BiT variant must be one of R50x1"),
        ("BIT__OUTPUT_STRIDE", 7, "output_stride must be one of"),
        ("BIT__DEPTHS", [1, 1], "one entry per stage each"),
        ("FPN__IN_FEATURES", ["stage2", "stage7"], "got 'stage7'"),
        ("FPN__IN_FEATURES", ["stem", "stage1"], "strides that double .*, got stem 4, stage1 4"),
        ("BIT__OUTPUT_STRIDE", 16, "strides that double .*stage3 16, stage4 16; restrict"),
        ("BIT__GLOBAL_PADDING", "valid", "use None or 'same'"),
        ("BIT__OUT_FEATURES", ["stage2"], None),
    ],
)
def test_wrong_values_are_rejected(key: str, value, message: str | None) -> None:
    cfg = tiny_cfg(**{key: value})
    if message is None:
        assert list(builders.build_bit_fpn_backbone(cfg, RGB).output_shape()) == ["p3", "p4"]
    else:
        with pytest.raises(ValueError, match=message):
            builders.build_bit_fpn_backbone(cfg, RGB)


def test_what_a_consumer_asks_for_must_be_offered() -> None:
    cfg = tiny_cfg(BIT__OUT_FEATURES=["stage1", "stage2"], FPN__IN_FEATURES=["res3", "res4"])
    with pytest.raises(ValueError, match=r"FPN.IN_FEATURES must be among MODEL.BIT.OUT_FEATURES"):
        builders.build_bit_fpn_backbone(cfg, RGB)


@pytest.mark.parametrize("names", [STAGES[:3], ["res2", "res3", "res4"]])
def test_an_fpn_tops_its_own_last_level(names: list[str]) -> None:
    cfg = tiny_cfg(FPN__IN_FEATURES=names)
    for build, levels in [
        (builders.build_bit_fpn_backbone, ["p2", "p3", "p4", "p5"]),
        (builders.build_retinanet_bit_fpn_backbone, ["p2", "p3", "p4", "p5", "p6"]),
        (builders.build_fcos_bit_fpn_backbone, ["p2", "p3", "p4", "p5", "p6"]),
    ]:
        fpn = build(cfg, RGB)
        assert list(fpn(torch.rand(1, 3, 64, 64))) == list(fpn.output_shape()) == levels


ALL_SELECTIONS = [
    names for k in range(1, 6) for names in itertools.combinations(["stem", *STAGES], k)
]


@pytest.mark.parametrize("width_factor", [1, 2, 3])
@pytest.mark.parametrize("padding", [None, "same"])
@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
def test_output_shape_is_what_comes_out(output_stride, padding, width_factor) -> None:
    """Every selection of outputs; the strides divide the image, so sizes are exact."""
    with torch.device("meta"):
        images = torch.empty(1, 3, 64, 96)
        for names in ALL_SELECTIONS:
            backbone = selection(names, output_stride, padding, width_factor)
            told = {
                name: (1, s.channels, 64 // s.stride, 96 // s.stride)
                for name, s in backbone.output_shape().items()
            }
            features = backbone(images)
            assert told == {name: tuple(f.shape) for name, f in features.items()}
            assert list(features) == list(told) == list(names)
            check_divisibility(backbone)


@pytest.mark.parametrize("width_factor", [1, 2, 3])
@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
def test_output_shape_is_what_comes_out_without_padding(output_stride, width_factor) -> None:
    """Maps lose a border, so strides show where the image grows by the largest of them."""
    with torch.device("meta"):
        small, large = torch.empty(1, 3, 320, 352), torch.empty(1, 3, 352, 320)
        for names in ALL_SELECTIONS:
            backbone = selection(names, output_stride, "valid", width_factor)
            before, after = backbone(small), backbone(large)
            assert list(before) == list(backbone.output_shape()) == list(names)
            for name, shape in backbone.output_shape().items():
                assert before[name].shape[1] == shape.channels
                assert after[name].shape[2] - before[name].shape[2] == 32 // shape.stride
                assert before[name].shape[3] - after[name].shape[3] == 32 // shape.stride
            check_divisibility(backbone)


def selection(names, output_stride, padding, width_factor) -> Detectron2BitBackbone:
    return Detectron2BitBackbone(
        **TINY,
        out_features=names,
        output_stride=output_stride,
        global_padding=padding,
        width_factor=width_factor,
    )


def check_divisibility(backbone: Detectron2BitBackbone) -> None:
    largest = max(shape.stride for shape in backbone.output_shape().values())
    assert backbone.size_divisibility == largest
    assert backbone.padding_constraints == {"size_divisibility": largest}


@pytest.mark.parametrize("feature_norm", [None, "none", "preact", "groupnorm"])
@pytest.mark.parametrize("padding", [None, "same", "valid"])
def test_output_shape_under_every_norm(feature_norm: str | None, padding: str | None) -> None:
    cfg = tiny_cfg(BIT__FEATURE_NORM=feature_norm, BIT__GLOBAL_PADDING=padding)
    for names in ALL_SELECTIONS:
        cfg.MODEL.BIT.OUT_FEATURES = list(names)
        with torch.device("meta"):
            backbone = builders.build_bit_backbone(cfg, RGB)
            features = backbone(torch.empty(1, 3, 320, 352))
        channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
        assert channels == {name: f.shape[1] for name, f in features.items()}
        assert list(features) == list(names)


def test_it_is_bit_backbone_with_other_output_names() -> None:
    ours = BitBackbone(**TINY, out_features=["stage1", "stage4"])
    theirs = Detectron2BitBackbone(**TINY, out_features=["res2", "res5"])
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 65, 43)
    expected = ours(images)
    assert {n: f.tolist() for n, f in theirs(images).items()} == {
        "res2": expected["stage1"].tolist(),
        "res5": expected["stage4"].tolist(),
    }


def frozen_parts(backbone: nn.Module) -> set[str]:
    parts = {n.split(".")[0]: set() for n, _ in backbone.named_parameters()}
    for name, parameter in backbone.named_parameters():
        parts[name.split(".")[0]].add(parameter.requires_grad)
    assert all(len(kinds) == 1 for kinds in parts.values())
    return {part for part, kinds in parts.items() if kinds == {False}}


@pytest.mark.parametrize("at", range(-1, 7))
@pytest.mark.parametrize("feature_norm", ["none", "preact", "groupnorm"])
def test_freeze_at_freezes_what_detectron2_would(at: int, feature_norm: str) -> None:
    cfg = tiny_cfg(BACKBONE__FREEZE_AT=at, BIT__FEATURE_NORM=feature_norm)
    backbone = builders.build_bit_fpn_backbone(cfg, RGB).bottom_up
    expected = set(["stem", *STAGES][: max(at, 0)])
    if feature_norm == "preact" and at >= 5:
        expected.add("norm")
    assert frozen_parts(backbone) == expected


@pytest.mark.parametrize("feature_norm", ["none", "preact", "groupnorm"])
def test_the_solver_finds_every_norm(feature_norm: str) -> None:
    cfg = tiny_cfg(BACKBONE__FREEZE_AT=0, BIT__FEATURE_NORM=feature_norm)
    backbone = builders.build_bit_fpn_backbone(cfg, RGB).bottom_up
    groups = get_default_optimizer_params(backbone, weight_decay=1e-4, weight_decay_norm=0.0)
    decayed = {p for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    names = {n for n, p in backbone.named_parameters() if p in decayed}
    assert names == {n for n, p in backbone.named_parameters() if p.ndim == 4}


def test_one_channel_images() -> None:
    cfg = tiny_cfg()
    cfg.INPUT.FORMAT = "L"
    cfg.MODEL.PIXEL_MEAN = cfg.MODEL.PIXEL_STD = [127.5]
    cfg.MODEL.BACKBONE.NAME = "build_bit_fpn_backbone"
    assert build_backbone(cfg)(torch.rand(1, 1, 64, 64))["p5"].shape == (1, 256, 2, 2)


@pytest.mark.parametrize(
    ("mean", "std", "order", "told"),
    [
        ([127.5] * 3, [127.5] * 3, "RGB", []),
        ([127.5], [127.5], "L", []),
        ([127.5] * 3, [127.5] * 3, "BGR", ["INPUT.FORMAT: RGB"]),
        ([127.5] * 3, [1.0] * 3, "RGB", ["MODEL.PIXEL_STD: [127.5, 127.5, 127.5]"]),
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "RGB", ["PIXEL_MEAN", "PIXEL_STD"]),
        ([103.53], [127.5], "L", ["MODEL.PIXEL_MEAN: [127.5]"]),
    ],
)
def test_foreign_pixels_are_told(mean, std, order, told, caplog) -> None:
    cfg = tiny_cfg()
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = order, mean, std
    with caplog.at_level(logging.WARNING, "detectron2.bit_backbone"):
        builders.build_bit_backbone(cfg, ShapeSpec(channels=len(mean)))
    assert Counter(record.levelname for record in caplog.records) == Counter(
        ["WARNING"] if told else []
    )
    assert all(text in caplog.text for text in told)


def test_lists_of_a_lazy_config_are_taken() -> None:
    from detectron2.config import LazyCall, instantiate

    lazy = LazyCall(Detectron2BitBackbone)(
        config="R50x1", out_features=["stage1", "stage2"], freeze_at=1
    )
    lazy.update({key: list(v) if isinstance(v, tuple) else v for key, v in TINY.items()})
    backbone = instantiate(lazy)
    assert backbone.config == BitConfig(**TINY, out_features=["stage1", "stage2"])
    assert frozen_parts(backbone) == {"stem"}


def test_detectron2_can_import_it_by_environment_variable(monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "bit_backbone.detectron2")
    code = (
        "from detectron2.modeling import BACKBONE_REGISTRY\n"
        "assert 'build_bit_fpn_backbone' in BACKBONE_REGISTRY"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# What a plug-in such as vovnet-detectron2 does when it is imported, under names of its own.
PLUGIN = """
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, META_ARCH_REGISTRY, Backbone
from torch import nn

def add_vovnet_config(cfg):
    cfg.MODEL.VOVNET = CfgNode({"CONV_BODY": "V-39-eSE", "OUT_FEATURES": ["stage2", "stage3"]})

class VoVNet(Backbone):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 8, 1)
        self._out_features = ["stage3"]
        self._out_feature_strides, self._out_feature_channels = {"stage3": 8}, {"stage3": 8}

    def forward(self, x):
        return {"stage3": self.stem(x)}

@BACKBONE_REGISTRY.register()
def build_vovnet_backbone(cfg, input_shape):
    assert cfg.MODEL.VOVNET.CONV_BODY == "V-39-eSE"
    return VoVNet()

@BACKBONE_REGISTRY.register()
def build_vovnet_fpn_backbone(cfg, input_shape):
    return FPN(VoVNet(), ["stage3"], 16)

@META_ARCH_REGISTRY.register()
class VoVNetDetector(nn.Module):
    pass
"""
OURS = "import bit_backbone.detectron2 as ours"
BESIDE = """
import torch
from detectron2.modeling import build_backbone

cfg = get_cfg()
for add in ADDERS:
    add(cfg)
assert cfg.MODEL.VOVNET.CONV_BODY == "V-39-eSE" and cfg.MODEL.BIT.VARIANT == "R50x1"
cfg.merge_from_list(["MODEL.BIT.DEPTHS", [1, 1, 1, 1], "MODEL.VOVNET.OUT_FEATURES", ["stage3"]])
cfg.MODEL.BACKBONE.FREEZE_AT = 0
for name, kind in {"build_vovnet_backbone": "VoVNet", "build_vovnet_fpn_backbone": "FPN",
                   "build_bit_backbone": "Detectron2BitBackbone",
                   "build_bit_fpn_backbone": "FPN"}.items():
    cfg.MODEL.BACKBONE.NAME = name
    backbone = build_backbone(cfg)
    assert type(backbone).__name__ == kind, name
    told = {n: s.channels for n, s in backbone.output_shape().items()}
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 64, 64))
    assert told == {n: f.shape[1] for n, f in features.items() if n in told}, name
"""


@pytest.mark.parametrize(
    ("ours_first", "adders"),
    [
        (True, "[ours.add_bit_config, add_vovnet_config]"),
        (False, "[add_vovnet_config, ours.add_bit_config]"),
    ],
)
def test_it_lives_beside_another_plug_in(ours_first: bool, adders: str) -> None:
    """Either import and either node first: both build what they build alone."""
    code = [OURS, PLUGIN] if ours_first else [PLUGIN, OURS]
    script = "\n".join([*code, BESIDE.replace("ADDERS", adders)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_variant_named_as_weights_are_needs_weights():
    cfg = tiny_cfg(BIT__VARIANT="BiT-M-R50x1")
    cfg.MODEL.BACKBONE.NAME = "build_bit_backbone"
    with pytest.warns(
        UserWarning, match=r'random weights: set MODEL\.WEIGHTS to "bit://BiT-M-R50x1"'
    ):
        build_backbone(cfg)
