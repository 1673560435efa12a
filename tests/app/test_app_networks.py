"""Checkpoints of the page, and what they can be asked for."""

from pathlib import Path

import pytest
import torch
from damaged_images import empty
from networks import TINY, randomise, tiny
from photographs import photograph

from bit_backbone import BitConfig, BitForImageClassification
from bit_backbone.app.looks import Photograph, look
from bit_backbone.app.networks import RANDOM, Networks, View, demo_checkpoints
from bit_backbone.app.photographs import MOST_BYTES, Gallery, read_photograph


def saved(folder: Path, **settings) -> str:
    tiny(**settings).save_pretrained(folder)
    return str(folder)


def test_names_are_as_short_as_they_can_be(tmp_path):
    first, second = (saved(tmp_path / name / "model") for name in ("a", "b"))
    assert Networks([first]).names == ["model"]
    assert Networks([first, second, first]).names == ["a/model", "b/model"]
    assert Networks().names == [RANDOM]


def test_only_what_has_a_head_classifies(tmp_path, classifier):
    networks = Networks([str(classifier), saved(tmp_path / "backbone")])
    assert networks.classifiers == ["animals"]
    assert networks.detectors == []


@pytest.mark.parametrize(
    ("settings", "maps", "outputs"),
    [
        ({}, "as trained", 5),
        ({}, "raw", 5),
        ({"feature_norm": "preact"}, "as trained", 5),
        ({"feature_norm": "preact"}, "raw", 5),
        ({"feature_norm": "groupnorm", "out_indices": (1, 3)}, "as trained", 2),
        ({"out_indices": (1, 2)}, "as trained", 3),  # what lies deeper has no weights
        ({"layer_type": "bottleneck"}, "raw", 5),
    ],
)
def test_a_backbone_gives_every_map_it_has_weights_for(tmp_path, settings, maps, outputs):
    networks = Networks([saved(tmp_path / "net", **{"out_indices": (4,), **settings})])
    view = View("net", maps, 16)
    backbone = networks.backbone(view)
    assert len(backbone.out_features) == outputs
    assert backbone.config.output_stride == 16
    assert networks.backbone(view) is backbone


def test_a_norm_that_is_not_there_is_an_error(tmp_path):
    networks = Networks([saved(tmp_path / "net", layer_type="bottleneck", out_indices=(4,))])
    with pytest.raises(ValueError, match="preact"):
        networks.backbone(View("net", "preact"))


@pytest.mark.parametrize("name", ["nowhere", "BiT-Z-R50x1"])
def test_a_checkpoint_that_cannot_be_found_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        Networks([str(tmp_path / name) if name == "nowhere" else name])


def test_the_demos_checkpoints_are_found(tmp_path):
    assert demo_checkpoints(tmp_path) == []
    for name in ("run_0", "backbone_0", "scenes"):
        (tmp_path / "demo" / name).mkdir(parents=True)
    assert demo_checkpoints(tmp_path) == [
        str(tmp_path / "demo" / name) for name in ("run_0", "backbone_0")
    ]


def test_maps_are_computed_once(tmp_path):
    networks = Networks([saved(tmp_path / name, out_indices=(4,)) for name in ("a", "b")])
    first, second = (Photograph(n, photograph(f"{n}@90x70")) for n in ("china", "flower"))
    views = [View("a"), View("b")]
    before = look(networks, [first], views, 64)
    assert [row.seen.size for row in before.rows] == [(82, 64)] * 2
    after = look(networks, [first, second], views, 64, before)
    assert after.rows[:2] == before.rows
    assert after.rows[0] is before.rows[0]
    assert after.second is second
    assert after.query(after.rows[3]) is after.rows[1]
    assert look(networks, [first], views[:1], 32, after).rows[0].seen.size == (41, 32)


def test_networks_may_have_other_stages(tmp_path):
    deep = {"hidden_sizes": (16, 24, 32, 48, 64), "depths": (1,) * 5, "out_indices": (5,)}
    sources = [saved(tmp_path / "a", out_indices=(4,)), saved(tmp_path / "b", **deep)]
    views = [View("a"), View("b")]
    seen = look(Networks(sources), [Photograph("x", photograph("china@64x64"))], views, 64)
    assert seen.stages == ("stem", *(f"stage{i}" for i in range(1, 6)))
    assert list(seen.rows[0].stages) == ["stem", "stage1", "stage2", "stage3", "stage4"]


def test_small_images_stay_small_and_strips_are_bounded(tmp_path):
    networks = Networks([saved(tmp_path / "a", out_indices=(4,))])
    for size, expected in (((40, 30), (40, 30)), ((4000, 100), (1320, 33))):
        strip = Photograph("x", photograph("china").resize(size))
        assert look(networks, [strip], [View("a")], 480).rows[0].seen.size == expected


def test_the_gallery_lists_the_images_of_a_folder_first(images, tmp_path):
    assert Gallery(images).own == ["a.png", "b.jpg"]
    assert Gallery(images).names == ["a.png", "b.jpg", "china.jpg", "flower.jpg"]
    assert Gallery().read("china.jpg").size == (640, 427)
    for folder, message in ((tmp_path, "has none"), (images / "notes.txt", "is none")):
        with pytest.raises(ValueError, match=f"takes a folder of images, and .* {message}"):
            Gallery(folder)


def test_without_scikit_learn_there_are_no_samples(monkeypatch):
    monkeypatch.setattr("bit_backbone.utils.extras.find_spec", lambda name: None)
    assert Gallery().names == []


def large(path):
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 2**20)


@pytest.mark.parametrize(
    ("write", "message"),
    [(large, r"at most 32 MiB, and the image has 33"), (empty, r"cannot identify image file")],
)
def test_a_file_that_is_no_photograph(tmp_path, write, message):
    write(tmp_path / "a.png")
    with pytest.raises((ValueError, OSError), match=message):
        read_photograph(tmp_path / "a.png", "the image")


def test_what_a_classifier_is_opened_with(classifier):
    opened = Networks([str(classifier)]).classifier("animals")
    assert opened.names == ("cat", "dog", "<bird>")
    assert not opened.model.training
    torch.manual_seed(1)
    config = BitConfig(**TINY, num_labels=3)
    expected = randomise(BitForImageClassification(config)).classifier.weight
    torch.testing.assert_close(opened.model.classifier.weight, expected)
