"""Checkpoints that do not fit: rejected before anything changes, or loaded as far as they fit."""

import numpy as np
import pytest
import torch
from official import official_arrays, write_official
from tiny_models import LABELS, assert_unchanged, classifier, kernel, snapshot

from bit_backbone import BitBackbone
from bit_backbone.checkpoints import CheckpointError, load
from bit_backbone.utils.empty_weights import init_empty_weights


def without(arrays, *parts):
    return {name: a for name, a in arrays.items() if not any(part in name for part in parts)}


def renamed(arrays, old, new):
    return {name.replace(old, new): array for name, array in arrays.items()}


MISFITS = {
    "a missing tensor": (
        lambda a: without(a, "block2/unit01/b/group_norm/beta"),
        r"missing from the file: stage2\.0\.norm2\.bias\npass strict=False",
    ),
    "no stem": (
        lambda a: without(a, "root_block"),
        r"missing from the file: stem\.conv\.weight",
    ),
    "a missing unit": (
        lambda a: without(a, "block2/unit02"),
        r"this file is a network of depths \(1, 1, 1, 1\).*; the model is a network of depths "
        r"\(1, 2, 1, 1\)[^$]*missing from the file: 9 tensors: stage2\.1\.",
    ),
    "a gap in the units": (
        lambda a: without(a, "block2/unit01"),
        r"missing from the file: 10 tensors: stage2\.0\.",
    ),
    "an extra unit": (
        lambda a: official_arrays(head=LABELS, depths=(1, 3, 1, 1)),
        r"this file is a network of depths \(1, 3, 1, 1\)[^$]*unexpected in the file: 9 tensors: "
        r"stage2\.2\.",
    ),
    "an extra tensor": (
        lambda a: {**a, "resnet/block1/unit01/a/extra": np.ones(3, np.float32)},
        "unexpected in the file: resnet/block1/unit01/a/extra",
    ),
    "wider": (
        lambda a: official_arrays(head=LABELS, widths=(64, 128, 256, 512)),
        r"stage widths \(64, 128, 256, 512\)[^$]*misshapen: 50 tensors: stage1",
    ),
    "one misshapen tensor": (
        lambda a: {**a, "resnet/group_norm/gamma": np.ones(255, np.float32)},
        r"misshapen: norm\.weight is \[255\] in the file, \[256\] in the model",
    ),
    "stages that stop early": (
        lambda a: without(a, "block4"),
        r"missing from the file: 10 tensors: stage4\.0\.",
    ),
    "one tensor twice": (
        lambda a: {
            **a,
            "resnet/root_block/standardized_conv2d_3/kernel": np.ones((7, 7, 3, 16), np.float32),
        },
        "one tensor twice, as 'resnet/root_block/standardized_conv2d/kernel' and ",
    ),
    "two networks": (
        lambda a: {
            f"{key}/{name}": array for key in ("left", "right") for name, array in a.items()
        },
        r"several BiT networks, 'left', 'right': pass part=.left. for the first",
    ),
    "no network": (
        lambda a: renamed(a, "standardized_conv2d", "conv"),
        "holds no BiT network: none of its 54 names .* is a BiT convolution; known layouts: native",
    ),
    "wrong types": (
        lambda a: {
            name: array.astype(np.int32) if "head/conv2d/bias" in name else array
            for name, array in a.items()
        },
        "weights must be float16, bfloat16, float32, float64, got int32 in 'resnet/head/conv2d/bia",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("meta", [False, True], ids=["real", "meta"])
def test_what_does_not_fit_is_rejected_and_changes_nothing(arrays, misfit, meta, tmp_path):
    change, message = MISFITS[misfit]
    path = write_official(tmp_path / "misfit.npz", change(arrays))
    with init_empty_weights(when=meta):
        model = classifier()
    before = None if meta else snapshot(model)
    with pytest.raises(CheckpointError, match=message):
        load(model, path)
    if meta:
        assert all(parameter.is_meta for parameter in model.parameters())
    else:
        assert_unchanged(model, before)


@pytest.mark.parametrize("meta", [False, True], ids=["real", "meta"])
def test_not_strict_loads_what_fits_and_warns(arrays, meta, tmp_path):
    changed = without(arrays, "block2/unit02", "block1/unit01/a/group_norm/beta")
    changed["resnet/group_norm/gamma"] = np.ones(255, np.float32)
    path = write_official(tmp_path / "misfit.npz", changed)
    with init_empty_weights(when=meta):
        model = classifier()
    with pytest.warns(UserWarning, match="misshapen: norm.weight"):
        report = load(model, path, strict=False)
    assert not report.complete
    assert len(report.missing) == 10
    assert set(report.misshapen) == {"norm.weight"}
    left = (*report.missing, *report.misshapen)
    assert sorted(report.fresh if meta else report.kept) == sorted(left)
    state = model.state_dict()
    assert not any(tensor.is_meta for tensor in state.values())
    stem = kernel(changed["resnet/root_block/standardized_conv2d/kernel"])
    assert torch.equal(state["stem.conv.weight"], stem)
    # A norm whose weight came from the file and whose bias did not keeps both.
    gamma = torch.from_numpy(changed["resnet/block1/unit01/a/group_norm/gamma"])
    assert torch.equal(state["stage1.0.norm1.weight"], gamma)
    assert torch.equal(state["stage1.0.norm1.bias"], torch.zeros(16))
    assert 0.5 < state["stage2.1.conv2.weight"].std() / (2 / (16 * 9)) ** 0.5 < 2


def test_the_variant_is_named():
    names = BitBackbone("R101x1", out_indices=[2]).state_dict()
    names |= {f"stage3.{u}.conv3.weight": torch.ones(1024, 256, 1, 1) for u in range(23)}
    names |= {f"stage4.{u}.conv3.weight": torch.ones(2048, 512, 1, 1) for u in range(3)}
    with pytest.raises(CheckpointError, match="this file is R101x1; the model is R50x1"):
        load(BitBackbone("R50x1", out_indices=[1]), names)
    # What the model builds of it would fit: that is not enough.
    with pytest.warns(UserWarning, match="this file is R101x1"):
        report = load(BitBackbone("R50x1", out_indices=[1]), names, strict=False)
    assert not report.missing
    assert not report.misshapen
    assert not report.same_network
