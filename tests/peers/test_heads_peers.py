"""BitModel and BitForImageClassification against transformers and timm, in float64."""

import re
from functools import partial

import pytest
import torch

from bit_backbone import BitConfig, BitForImageClassification, BitModel

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

TINY = {
    "embedding_size": 16, "hidden_sizes": (32, 64, 128, 256), "depths": (1, 2, 1, 1),
    "num_groups": 8, "num_labels": 5,
}  # fmt: skip
PEER_EPS = 1e-8
IMAGES = torch.randn(2, 3, 65, 79, generator=torch.Generator().manual_seed(0)).double()


def equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def shaken(model):
    """Moves every parameter off its initial value, norms and biases too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.double().eval()


def to_transformers(state):
    renamed = {}
    for name, value in state.items():
        name = re.sub(
            r"^stage(\d+)\.(\d+)",
            lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}",
            name,
        )
        name = name.replace("stem.conv", "embedder.convolution").replace(
            "stem.norm", "embedder.norm"
        )
        if name.startswith("classifier"):
            name = name.replace("classifier", "classifier.1")
        else:
            name = f"bit.{name}"
        renamed[name] = value
    return renamed


def to_timm(state):
    renamed = {}
    for name, value in state.items():
        name = re.sub(
            r"^stage(\d+)\.(\d+)", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}", name
        )
        if name == "classifier.weight":
            value = value[:, :, None, None]
        renamed[name.replace("classifier", "head.fc")] = value
    return renamed


def transformers_twin(ours, **settings):
    config = transformers.BitConfig(**{**TINY, **settings})
    theirs = transformers.BitForImageClassification(config).double().eval()
    theirs.load_state_dict(to_transformers(ours.state_dict()))
    return theirs


def pair(**settings):
    config = BitConfig(**{**TINY, **settings}, weight_standardization_eps=PEER_EPS)
    ours = shaken(BitForImageClassification(config))
    return ours, transformers_twin(ours, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden_act": "gelu"},
        {"depths": (1, 1), "hidden_sizes": (32, 64)},
        {"num_channels": 1},
        # Theirs pads the pooling with zeros (seen where no ReLU comes before it), SAME only where
        # told to, and otherwise a bottleneck's stem before its norm.
        {"global_padding": "same", "embedding_dynamic_padding": True, "layer_type": "bottleneck"},
        {"drop_path_rate": 0.3},
    ],
    ids=str,
)
def test_equal_to_transformers(settings):
    ours, theirs = pair(**settings)
    images = IMAGES[:, : settings.get("num_channels", 3)]
    labels = torch.tensor([0, 4])
    with torch.no_grad():
        mine = ours(images, labels=labels, output_hidden_states=True)
        peer = theirs(images, labels=labels, output_hidden_states=True)
    assert list(mine) == list(peer.keys())
    for a, b in zip(mine.hidden_states, peer.hidden_states, strict=True):
        equal(a, b)
    equal(mine.logits, peer.logits)
    equal(mine.loss, peer.loss)


def test_model_equals_transformers():
    ours, theirs = pair()
    model = BitModel(ours.config).double().eval()
    model.load_state_dict(ours.state_dict(), strict=False)
    with torch.no_grad():
        for return_dict in (True, False):
            options = {"output_hidden_states": True, "return_dict": return_dict}
            mine, peer = model(IMAGES, **options), theirs.bit(IMAGES, **options)
            assert len(mine) == len(peer) == 3
            for i in range(2):
                equal(mine[i], peer[i])
            for a, b in zip(mine[2], peer[2], strict=True):
                equal(a, b)


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_folder_says_what_is_returned_to_both(states, named, tmp_path):
    settings = {"output_hidden_states": states, "return_dict": named}
    for ours_first in (True, False):
        ours, theirs = pair(**settings)
        (ours if ours_first else theirs).save_pretrained(tmp_path)
        mine = BitForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
        peer = transformers.BitForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
        with torch.no_grad():
            found, expected = mine(IMAGES), peer(IMAGES)
        assert isinstance(found, tuple) == isinstance(expected, tuple) == (not named)
        assert len(found) == len(expected) == 1 + states
        equal(found[0], expected[0])
        if states:
            for a, b in zip(found[1], expected[1], strict=True):
                equal(a, b)


def test_a_config_json_is_read_by_both(tmp_path):
    settings = {**TINY, "output_hidden_states": True, "out_features": ["stage1", "stage3"]}
    keys = [*settings, "out_indices", "problem_type", "return_dict"]
    peers = transformers.BitConfig(**settings)
    peers.save_pretrained(tmp_path / "theirs")
    BitConfig(**settings).save_pretrained(tmp_path / "ours")
    for folder in (tmp_path / "theirs", tmp_path / "ours"):
        mine = BitConfig.from_pretrained(folder).to_dict()
        theirs = transformers.BitConfig.from_pretrained(folder)
        for key in keys:
            value = getattr(theirs, key)
            assert mine[key] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "labels"),
    [
        (1, None, torch.tensor([0.5, 2.0])),
        (5, None, torch.tensor([3, -100])),
        (5, None, torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])),
        (5, "multi_label_classification", torch.tensor([[1.0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])),
        (5, "single_label_classification", torch.tensor([1, 0])),
        (5, "regression", torch.linspace(-1, 1, 10).reshape(2, 5)),
    ],
)
def test_losses_equal_transformers(num_labels, problem_type, labels):
    ours, theirs = pair(num_labels=num_labels, problem_type=problem_type)
    labels = labels.double() if labels.is_floating_point() else labels
    mine, peer = ours(IMAGES, labels=labels), theirs(IMAGES, labels=labels)
    equal(mine.loss, peer.loss)
    mine.loss.backward()
    peer.loss.backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    peers = dict(theirs.named_parameters())
    for name, gradient in to_transformers(gradients).items():
        torch.testing.assert_close(gradient, peers[name].grad, rtol=1e-8, atol=1e-10)


def test_no_head_gives_the_pooled_features_as_transformers():
    ours, theirs = pair(num_labels=0)
    with torch.no_grad():
        equal(ours(IMAGES).logits, theirs(IMAGES).logits)


@pytest.mark.parametrize("width_factor", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("output_stride", "layer_type"),
    [(32, "preactivation"), (16, "preactivation"), (8, "preactivation"), (32, "bottleneck")],
)
def test_equal_to_timm(width_factor, output_stride, layer_type):
    config = BitConfig(
        **TINY, width_factor=width_factor, output_stride=output_stride, layer_type=layer_type,
        weight_standardization_eps=PEER_EPS,
    )  # fmt: skip
    ours = shaken(BitForImageClassification(config))
    theirs = timm.models.resnetv2.ResNetV2(
        layers=TINY["depths"], channels=TINY["hidden_sizes"], num_classes=5, stem_chs=16,
        width_factor=width_factor, output_stride=output_stride, stem_type="fixed",
        conv_layer=partial(timm.layers.StdConv2d, eps=PEER_EPS),
        norm_layer=partial(timm.layers.GroupNormAct, num_groups=8),
        preact=layer_type == "preactivation",
    ).double().eval()  # fmt: skip
    theirs.load_state_dict(to_timm(ours.state_dict()))
    with torch.no_grad():
        equal(ours(IMAGES).logits, theirs(IMAGES))
        features = theirs.forward_features(IMAGES)
        model = BitModel(config).double().eval()
        model.load_state_dict(ours.state_dict(), strict=False)
        mine = model(IMAGES)
        equal(mine.last_hidden_state, features)
        equal(mine.pooler_output[:, :, 0, 0], theirs.forward_head(features, pre_logits=True))


def test_r50x1_equals_both():
    """The published depth and width."""
    ours = shaken(BitForImageClassification("R50x1", weight_standardization_eps=PEER_EPS))
    published = {
        "embedding_size": 64, "hidden_sizes": (256, 512, 1024, 2048), "depths": (3, 4, 6, 3),
        "num_groups": 32, "num_labels": 1000,
    }  # fmt: skip
    theirs = transformers_twin(ours, **published)
    peer = timm.create_model("resnetv2_50x1_bit.goog_in21k_ft_in1k", pretrained=False).double()
    peer.load_state_dict(to_timm(ours.state_dict()))
    with torch.no_grad():
        logits = ours(IMAGES).logits
        equal(logits, theirs(IMAGES).logits)
        equal(logits, peer.eval()(IMAGES))
