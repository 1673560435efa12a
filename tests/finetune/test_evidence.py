"""The pixels that a classifier's answer comes from add up to it."""

import pytest
import torch
from networks import TINY, randomise

from bit_backbone import BitConfig, BitForImageClassification
from bit_backbone.finetune.evidence import evidence


@pytest.mark.parametrize("settings", [{}, {"layer_type": "bottleneck"}, {"output_stride": 8}])
def test_contributions_and_bias_are_the_logits(settings):
    config = BitConfig(**TINY, num_labels=4, **settings)
    model = randomise(BitForImageClassification(config)).eval()
    pixels = torch.rand(1, 3, 70, 90) * 2 - 1
    found = evidence(model, pixels)
    with torch.no_grad():
        expected = model(pixels)
    torch.testing.assert_close(found.logits, expected.logits[0])
    for label in range(4):
        contributions = found.contributions(label)
        assert contributions.shape == found.last.shape[1:]
        total = contributions.sum() + found.bias[label]
        torch.testing.assert_close(total, expected.logits[0, label], atol=1e-4, rtol=1e-4)


def test_a_contribution_is_that_of_its_pixel():
    model = randomise(BitForImageClassification(BitConfig(**TINY, num_labels=2))).eval()
    found = evidence(model, torch.rand(1, 3, 64, 64))
    by_hand = model.classifier.weight[1].detach() @ found.last[:, 1, 0] / 4
    torch.testing.assert_close(found.contributions(1)[1, 0], by_hand)


def test_without_a_head_there_is_no_evidence():
    model = BitForImageClassification(BitConfig(**TINY, num_labels=0)).eval()
    with pytest.raises(ValueError, match="this model has no head: num_labels is 0"):
        evidence(model, torch.rand(1, 3, 64, 64))
