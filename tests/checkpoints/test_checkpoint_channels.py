"""RGB checkpoints for images with other channels."""

import copy
import pickle

import pytest
import torch
from official import write_official
from tiny_models import backbone

from bit_backbone.checkpoints import CheckpointError, load
from bit_backbone.network.image_channels import adapt_rgb_filters
from bit_backbone.network.std_conv import standardize
from bit_backbone.utils.empty_weights import init_empty_weights


@pytest.mark.parametrize(("channels", "repeats"), [(1, 1), (6, 2), (9, 3)])
def test_copies_of_a_grey_image_give_what_rgb_gives(arrays, channels, repeats, tmp_path):
    path = write_official(tmp_path / "a.npz", arrays)
    grey = torch.rand(2, 1, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        rgb = backbone(out_indices=[0, 1, 2, 3, 4]).double()
        load(rgb, path)
        adapted = backbone(out_indices=[0, 1, 2, 3, 4], num_channels=channels).double()
        report = load(adapted, path)
        expected = rgb(grey.expand(-1, 3, -1, -1))
        ours = adapted(grey.expand(-1, channels, -1, -1))
    assert report.adapted == ("stem.conv.weight",)
    for name in expected:
        error = (ours[name] - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 1e-12, name


def test_colour_images_through_six_channels(path):
    image = torch.rand(1, 3, 33, 47)
    rgb, adapted = backbone(out_indices=[1]), backbone(out_indices=[1], num_channels=6)
    load(rgb, path)
    load(adapted, path)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted(torch.cat([image, image], 1))["stage1"],
            rgb(image)["stage1"],
            rtol=1e-5,
            atol=1e-4,
        )


def test_without_the_gain_it_would_not_be(path):
    """The control: standardizing the summed filters alone gives another network."""
    grey = torch.rand(1, 1, 33, 47)
    rgb, adapted = backbone(out_indices=[1]), backbone(out_indices=[1], num_channels=1)
    load(rgb, path)
    load(adapted, path)
    adapted.stem.conv.gain.fill_(1)
    with torch.no_grad():
        expected = rgb(grey.expand(-1, 3, -1, -1))["stage1"]
        error = (adapted(grey)["stage1"] - expected).abs().max() / expected.abs().max()
    assert error > 0.01


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_uneven_channels_are_cycled_and_centred(channels):
    weight = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    adapted, gain = adapt_rgb_filters(weight, channels, 1e-10)
    standard = standardize(weight, 1e-10)
    expected = torch.cat([standard, standard], 1)[:, :channels] * 3 / channels
    torch.testing.assert_close(adapted, expected)
    effective = standardize(adapted, 1e-10) * gain
    mean = expected.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(effective, expected - mean)


@pytest.mark.parametrize("meta", [False, True], ids=["real", "meta"])
def test_the_gain_is_saved_and_loaded(path, meta, tmp_path):
    adapted = backbone(num_channels=1)
    load(adapted, path)
    torch.save(adapted.state_dict(), tmp_path / "adapted.pth")
    with init_empty_weights(when=meta):
        again = backbone(num_channels=1)
    report = load(again, tmp_path / "adapted.pth")
    assert "stem.conv.gain" in report.loaded
    assert report.adapted == ()
    assert torch.equal(again.stem.conv.gain, adapted.stem.conv.gain)
    # A file without a gain was trained without one.
    state = adapted.state_dict()
    del state["stem.conv.gain"]
    load(again, state)
    assert torch.equal(again.stem.conv.gain, torch.ones(16, 1, 1, 1))


def test_other_channels_do_not_become_rgb(path):
    grey = backbone(num_channels=1)
    load(grey, path)
    with pytest.raises(CheckpointError, match=r"misshapen: stem\.conv\.weight is"):
        load(backbone(), grey.state_dict())


def test_a_new_network_of_other_channels_has_plain_names():
    state = backbone(num_channels=4).state_dict()
    assert "stem.conv.gain" not in state
    backbone(num_channels=4).load_state_dict(state)


@pytest.mark.parametrize(
    "transform",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        torch.fx.symbolic_trace,
        lambda model: torch.export.export(model, (torch.rand(1, 1, 33, 47),)).module(),
        pytest.param(
            torch.jit.script,
            marks=pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
        ),
    ],
    ids=["copied", "pickled", "traced", "exported", "scripted"],
)
def test_an_adapted_network_is_like_any_other(path, transform):
    adapted = backbone(num_channels=1, out_indices=[0]).eval()
    load(adapted, path)
    grey = torch.rand(1, 1, 33, 47)
    with torch.no_grad():
        torch.testing.assert_close(transform(adapted)(grey)["stem"], adapted(grey)["stem"])
