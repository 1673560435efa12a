"""A set without objects is told before the first step, not after hours of training on nothing."""

import json
import warnings

import pytest
from rectangles import SMALL, write_coco

from bit_backbone.cli import main
from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.datasets.semantic import SemanticFolder
from bit_backbone.detection import DetectionSettings, DetectorSpec, train
from bit_backbone.detection.tasks import check_objects, warn_of_no_objects


def without(kind, root):
    """A folder whose annotations are crowds, or that has none."""
    write_coco(root, 2)
    content = json.loads((root / "instances.json").read_text())
    if kind == "crowds":
        for annotation in content["annotations"]:
            counts = [48 * 64]
            size = [48, 64]
            annotation |= {"iscrowd": 1, "segmentation": {"size": size, "counts": counts}}
        for record in content["images"]:
            record |= {"width": 64, "height": 48}
    else:
        content["annotations"] = []
    (root / "instances.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("kind", ["crowds", "no annotations"])
@pytest.mark.parametrize("folder", [CocoFolder, SemanticFolder])
def test_a_training_set_needs_an_object_and_a_test_set_is_warned_of(kind, folder, tmp_path):
    empty = folder(without(kind, tmp_path / "empty"))
    full = folder(write_coco(tmp_path / "full", 2))
    assert (empty.num_objects(), full.num_objects()) == (0, 4)
    with pytest.raises(ValueError, match=r"no object to learn from: .* none of the 2 images of"):
        check_objects(empty)
    with pytest.warns(UserWarning, match=r"no object to find: none of the 2 images of .*empty"):
        warn_of_no_objects(empty)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_objects(full)
        warn_of_no_objects(full)


def test_training_says_so_and_leaves_no_run(tmp_path):
    dataset = CocoFolder(without("no annotations", tmp_path / "empty"))
    spec = DetectorSpec("fasterrcnn_bit_fpn", dataset.categories, SMALL)
    settings = DetectionSettings(steps=1, batch_size=2)
    with pytest.raises(ValueError, match="no object to learn from"):
        train(spec, dataset, tmp_path / "run", settings, show_progress=False)
    assert not (tmp_path / "run").exists()


def test_the_command_says_so(tmp_path, capsys):
    empty, full = without("crowds", tmp_path / "empty"), write_coco(tmp_path / "full", 2)
    sets = ["--train", str(empty), "--test", str(full), "--steps", "1"]
    assert main(["train", "--output", str(tmp_path / "run"), "--variant", "R50x1", *sets]) == 2
    assert "error: no object to learn from" in capsys.readouterr().err
