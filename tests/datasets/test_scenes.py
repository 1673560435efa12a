"""Scenes: the same every time, honest about what is visible, legible."""

import numpy as np
import pytest

from bit_backbone.datasets.digits.scenes import LUMA, DigitScenes, Scene

CROWDED = DigitScenes(num_images=4, num_objects=(25, 25), image_size=(120, 144))


@pytest.fixture(scope="module")
def crowded() -> list[Scene]:
    return list(CROWDED)


def equal(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    scenes = DigitScenes(num_images=4)
    again = DigitScenes(num_images=9)
    backwards = {i: scenes[i] for i in (3, 2, 1, 0)}
    assert all(equal(backwards[i], again[i]) for i in range(4))
    images = [scene.image.tobytes() for scene in again]
    images += [DigitScenes(seed=1)[0].image.tobytes(), DigitScenes(split="test")[0].image.tobytes()]
    assert len(set(images)) == len(images) == 11


def test_arguments_are_kept_to() -> None:
    scenes = DigitScenes(
        num_images=12, image_size=(97, 131), num_objects=(0, 3), digit_height=(20, 40)
    )
    counts = {len(scene.labels) + scene.left_out for scene in scenes}
    assert counts == {0, 1, 2, 3}
    for scene in scenes:
        assert (scene.image.shape, scene.image.dtype) == ((97, 131, 3), np.uint8)
        assert scene.masks.shape == (len(scene.labels), 97, 131)
        assert scene.keypoints.shape == (len(scene.labels), 4, 3)
        for mask in scene.masks:
            assert mask.any(0).sum() <= 2 * 40
            assert mask.any(1).sum() <= 2 * 40


def test_masks_do_not_overlap_and_agree_with_the_semantic_map(crowded) -> None:
    for scene in crowded:
        assert scene.masks.sum(0).max() == 1
        expected = np.zeros(scene.image.shape[:2], int)
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            expected[mask] = label + 1
        assert np.array_equal(scene.semantic, expected)


def test_no_object_is_hidden_and_what_finds_no_place_is_counted(crowded) -> None:
    """An object's pixels before anything covered it: those of the same scene, drawn up to it."""
    assert sum(scene.left_out for scene in crowded) > 0
    assert all(len(scene.labels) + scene.left_out == 25 for scene in crowded)
    shorter = DigitScenes(num_images=4, num_objects=(1, 1), image_size=(120, 144))
    firsts = [
        (scene.masks[0], alone.masks[0]) for scene, alone in zip(crowded, shorter, strict=True)
    ]
    assert any(visible.sum() < full.sum() for visible, full in firsts)
    for visible, full in firsts:
        assert not (visible & ~full).any()
        assert visible.sum() >= CROWDED.min_visible * full.sum()


def test_visible_keypoints_lie_on_their_object_and_occluded_ones_do_not(crowded) -> None:
    seen = []
    for scene in crowded:
        for mask, keypoints in zip(scene.masks, scene.keypoints, strict=True):
            for x, y, visibility in keypoints:
                assert mask[int(y), int(x)] == (visibility == 2)
                seen.append(visibility)
    assert set(seen) == {1, 2}


def test_a_digit_stands_out_from_its_outline() -> None:
    """The middle of a stroke against the edge of the mask, in luma."""
    for scene in DigitScenes(num_images=10, num_objects=(1, 1), digit_height=(48, 56)):
        luma = (scene.image / 255) @ LUMA
        inside = scene.masks[0]
        assert np.ptp(np.percentile(luma[inside], [5, 95])) > 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "split should be one of train, test; got 'val'"),
        ({"num_images": 0}, "num_images should be at least 1; got 0"),
        ({"seed": -1}, "seed should be at least 0; got -1"),
        ({"min_visible": 0}, r"min_visible should be in \(0, 1\]; got 0"),
        ({"num_objects": (3, 2)}, r"num_objects should be .* 0 <= .*; got \(3, 2\)"),
        ({"num_objects": (-1, 2)}, r"num_objects should be .*; got \(-1, 2\)"),
        ({"digit_height": (8, 20)}, r"digit_height should be .* 12 <= .*; got \(8, 20\)"),
        ({"image_size": (111, 300)}, r"at least twice .*\(56\).*; got \(111, 300\)"),
    ],
)
def test_arguments_out_of_range(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        DigitScenes(**arguments)


@pytest.mark.parametrize("index", [-1, 4])
def test_indices_out_of_range(index) -> None:
    with pytest.raises(IndexError, match=f"scene {index} of 4"):
        DigitScenes(num_images=4)[index]
