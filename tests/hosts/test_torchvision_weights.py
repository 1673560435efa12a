"""Published weights through torchvision's interface, from files made here."""

import io
import sys

import numpy as np
import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from official import TINY_CONFIG, official_arrays
from torchvision.models import get_model

from bit_backbone import BitConfig, BitForImageClassification
from bit_backbone.checkpoints import CheckpointError, load
from bit_backbone.checkpoints.fetching import progress_bars
from bit_backbone.torchvision import BiT_R50x1_Weights

NAME = "BiT-M-R50x1-ILSVRC2012.npz"
WEIGHTS = BiT_R50x1_Weights.IMAGENET1K_BIT_M
PATHS = ["fasterrcnn_bit_fpn", "retinanet_bit_fpn", "deeplabv3_bit"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where torch.hub keeps what it has downloaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def published(cache):
    """A small network in the place of BiT-M-R50x1 fine-tuned on ImageNet-1k."""
    np.savez(cache / NAME, **official_arrays(head=1000))
    expected = BitForImageClassification(BitConfig(**TINY_CONFIG, num_labels=1000))
    load(expected, cache / NAME)
    return expected.state_dict()


class TestPublishedWeights:
    @pytest.mark.parametrize("weights", [WEIGHTS, "DEFAULT", str(WEIGHTS), "IMAGENET1K_BIT_M"])
    def test_classifier(self, weights, published):
        model = get_model("bit_r50x1", weights=weights, **TINY_CONFIG)
        torch.testing.assert_close(model.state_dict(), published)
        assert len(WEIGHTS.meta["categories"]) == model.classifier.out_features

    def test_state_dict(self, published):
        tensors = WEIGHTS.get_state_dict(progress=False, check_hash=True)
        assert set(tensors) == set(published)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in published.items())

    @pytest.mark.parametrize("name", PATHS)
    @pytest.mark.parametrize("weights", [WEIGHTS, repr(WEIGHTS), NAME.removesuffix(".npz")])
    def test_backbone(self, name, weights, published):
        config = BitConfig(**TINY_CONFIG)
        body = get_model(name, variant=config, weights_backbone=weights).backbone.body
        for key, tensor in body.state_dict().items():
            torch.testing.assert_close(tensor, published[key])

    def test_weights_of_another_network(self, published):
        with pytest.raises(CheckpointError, match="does not fit"):
            get_model("fcn_bit", variant="R50x1", weights_backbone=WEIGHTS)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("bit_r50x1", {"weights": WEIGHTS, **TINY_CONFIG}),
        *(
            (name, {"variant": BitConfig(**TINY_CONFIG), "weights_backbone": WEIGHTS})
            for name in PATHS
        ),
    ],
    ids=["bit_r50x1", *PATHS],
)
def test_progress(name, arguments, progress, cache, monkeypatch):
    asked = []

    def download(url, path, progress):
        asked.append((url, progress))
        with open(path, "wb") as file:
            np.savez(file, **official_arrays(head=1000))

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(sys, "stderr", Terminal())
    get_model(name, progress=progress, **arguments)
    assert asked == [(WEIGHTS.url, progress)]
    assert (cache / NAME).is_file()


def test_bars_of_the_hub_come_back():
    assert not are_progress_bars_disabled()
    with progress_bars(False):
        assert are_progress_bars_disabled()
    with progress_bars(True):
        assert not are_progress_bars_disabled()
    assert not are_progress_bars_disabled()
