"""Names of networks, and of weights where no weights are asked for."""

import warnings

import pytest
from networks import TINY

from bit_backbone import BitBackbone, BitForImageClassification, BitModel
from bit_backbone.config import BitConfig, warn_of_random_weights
from bit_backbone.torchvision import bit_fpn_backbone, deeplabv3_bit, fasterrcnn_bit_fpn

NETWORKS = ("R50x1", "r101x3", "resnetv2_50x1_bit", "resnetv2_152x4_bitm", None, BitConfig(**TINY))
WEIGHTS = (
    *("BiT-M-R50x1", "BiT-S-R101x1.npz", "BiT-M-R50x1-ILSVRC2012", "google/bit-50"),
    *("timm/resnetv2_50x1_bit.goog_in21k", "resnetv2_50x1_bit.goog_in21k_ft_in1k"),
    *("vtab/BiT-M-R50x1-run0-caltech101", "distill/R50x1_224"),
)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_name_of_weights_without_weights_is_warned_of(name):
    with pytest.warns(UserWarning, match="random weights: load with 'that'") as seen:
        warn_of_random_weights(name, None, "load with 'that'")
    assert repr(name) in str(seen[0].message)


@pytest.mark.parametrize("name", [*NETWORKS])
def test_the_name_of_a_network_is_not(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_random_weights(name, None, "load them")


def test_asked_for_weights_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_random_weights("BiT-M-R50x1", "BiT-M-R50x1", "load them")


SMALL = {key: value for key, value in TINY.items() if key != "depths"}


@pytest.mark.parametrize(
    ("build", "way_out"),
    [
        (lambda name: BitBackbone(name, **SMALL), 'weights="BiT-M-R50x1"'),
        (lambda name: BitModel(name, **SMALL), 'BitModel.from_pretrained("BiT-M-R50x1")'),
        (
            lambda name: BitForImageClassification(name, **SMALL),
            'BitForImageClassification.from_pretrained("BiT-M-R50x1")',
        ),
        (lambda name: bit_fpn_backbone(variant=name), 'weights="BiT-M-R50x1"'),
        (lambda name: fasterrcnn_bit_fpn(variant=name), 'weights_backbone="BiT-M-R50x1"'),
        (lambda name: deeplabv3_bit(variant=name), 'weights_backbone="BiT-M-R50x1"'),
    ],
)
def test_whatever_builds_a_network_warns(build, way_out):
    with pytest.warns(UserWarning, match="random weights") as seen:
        build("BiT-M-R50x1")
    (message,) = [
        str(w.message) for w in seen if "random weights" in str(w.message)
    ]  # and only one
    assert way_out in message
    assert "or name the variant 'R50x1'" in message
