"""Segmenters: labels, losses, mean IoU, pictures and whole runs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rectangles import VARIANT, write_coco
from torch import nn
from torch.nn import functional as F

from bit_backbone import cli
from bit_backbone.datasets import SemanticFolder
from bit_backbone.datasets.semantic import IGNORED, merge_masks
from bit_backbone.detection import DetectionSettings, DetectorSpec, load_detector, train
from bit_backbone.detection.models import segmenters
from bit_backbone.detection.segmentation_metrics import evaluate, summarize
from bit_backbone.detection.segmenters import AUX_WEIGHT, normalise, pixel_loss
from bit_backbone.detection.transforms import SEMANTIC_AUGMENTATIONS, semantic_transforms
from bit_backbone.visualization.objects import colour_of, draw_semantic

ARGUMENTS = {"variant": VARIANT, "output_stride": 16}
SETTINGS = DetectionSettings(steps=2, batch_size=2, base_lr=1e-3, warmup_steps=1)


def spec_of(name: str = "fcn_bit", **arguments) -> DetectorSpec:
    return DetectorSpec(name, ("block", "bar"), ARGUMENTS | arguments)


def test_masks_become_labels_and_doubtful_pixels_do_not_count() -> None:
    masks = torch.zeros(4, 1, 8, dtype=torch.uint8)
    for mask, (start, end) in zip(masks, ((0, 3), (1, 2), (2, 5), (4, 7)), strict=True):
        mask[:, start:end] = 1
    labels, crowd = torch.tensor([1, 1, 2, 2]), torch.tensor([0, 0, 0, 1])
    x = IGNORED
    # two objects of one class may overlap, two of different classes not, a crowd hides nothing
    assert merge_masks(masks, labels, crowd).tolist() == [[1, 1, x, 2, 2, x, x, 0]]
    assert merge_masks(masks[:0], labels[:0], crowd[:0]).tolist() == [[0] * 8]


def write_maps(folder: Path) -> SemanticFolder:
    """Write maps of category ids, from the masks; 7 is "bar" and 2 is "block"."""
    data = SemanticFolder(folder)
    ids = np.array([0, *data.category_ids] + [0] * 252 + [IGNORED], np.uint8)
    ids[IGNORED] = IGNORED
    (folder / "semantic").mkdir()
    for index in range(len(data)):
        _, target = data[index]
        path = folder / "semantic" / f"{index + 1}.png"
        Image.fromarray(ids[target["semantic"].numpy()]).save(path)
    return data


def test_maps_of_category_ids_give_the_labels_of_the_masks(coco_folder: Path) -> None:
    data = write_maps(coco_folder)
    maps = SemanticFolder(coco_folder, maps="semantic")
    assert maps.categories == data.categories == ("block", "bar")
    for index in range(len(data)):
        image, target = data[index]
        assert target["semantic"].shape == image.shape[1:]
        assert set(target["semantic"].unique().tolist()) <= {0, 1, 2, IGNORED}
        assert maps[index][1]["semantic"].equal(target["semantic"])
        assert maps[index][1]["image_id"] == target["image_id"]
    # bars are wider than blocks
    _, target = data[0]
    rows, columns = torch.where(target["semantic"] == 1 + data.categories.index("bar"))
    assert columns.max() - columns.min() > rows.max() - rows.min()


def shrink(path: Path) -> None:
    Image.open(path).resize((8, 8)).save(path)


def stain(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels[0, :2] = 3, 90
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (shrink, ValueError, r"its image's size, 64x48; .*1.png is \[8, 8\]"),
        (stain, ValueError, r"ids of the file's categories and 255; .*1.png also holds \[3, 90\]"),
        (Path.unlink, OSError, r"the semantic map .*1.png cannot be read"),
    ],
)
def test_a_wrong_map_is_named(damage, error, message: str, coco_folder: Path) -> None:
    write_maps(coco_folder)
    damage(coco_folder / "semantic" / "1.png")
    with pytest.raises(error, match=message):
        SemanticFolder(coco_folder, maps="semantic")[0]


@pytest.mark.parametrize("taken", [0, IGNORED])
def test_a_category_with_the_id_of_background_or_ignored_is_rejected(
    taken: int, coco_folder: Path
) -> None:
    own = write_maps(coco_folder).category_ids[0]
    file = coco_folder / "instances.json"
    document = json.loads(file.read_text())
    for record in (*document["categories"], *document["annotations"]):
        name = "id" if record in document["categories"] else "category_id"
        record[name] = taken if record[name] == own else record[name]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"should have other ids, got \[{taken}\]"):
        SemanticFolder(coco_folder, maps="semantic")
    SemanticFolder(coco_folder)  # masks say what they are of by labels


def test_more_categories_than_a_label_map_can_tell_are_rejected(coco_folder: Path) -> None:
    file = coco_folder / "instances.json"
    document = json.loads(file.read_text())
    first = 1 + max(record["id"] for record in document["categories"])
    document["categories"] += [{"id": first + i, "name": f"kind {i}"} for i in range(IGNORED)]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"fewer categories than {IGNORED}, got 2\d\d"):
        SemanticFolder(coco_folder)


def test_a_missing_folder_of_maps_is_rejected(coco_folder: Path) -> None:
    with pytest.raises(ValueError, match="semantic should be a folder of maps of category ids"):
        SemanticFolder(coco_folder, maps="semantic")


@pytest.mark.parametrize("name", SEMANTIC_AUGMENTATIONS)
def test_augmentation_moves_labels_with_pixels(name: str, coco_folder: Path) -> None:
    torch.manual_seed(3)
    data = SemanticFolder(coco_folder, transforms=semantic_transforms([name]))
    for _ in range(3):
        image, target = data[1]
        assert image.shape[1:] == target["semantic"].shape
        assert type(image) is type(target["semantic"]) is torch.Tensor
        assert (image.dtype, target["semantic"].dtype) == (torch.float32, torch.int64)
        is_object = (target["semantic"] > 0) & (target["semantic"] != IGNORED)
        if is_object.any() and name != "photometric":
            assert image.mean(0)[is_object].mean() > 0.8  # the rectangles are white


def test_an_unknown_augmentation_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"label maps are hflip, .* got 'iou-crop'"):
        semantic_transforms(["iou-crop"])


@pytest.mark.parametrize("name", segmenters())
def test_the_loss_is_torchs_over_the_pixels_that_count(name: str) -> None:
    torch.manual_seed(0)
    model = spec_of(name, aux_loss=True).build().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = [torch.rand(3, 40, 33), torch.rand(3, 25, 48)]
    targets = [{"semantic": torch.randint(0, 3, image.shape[1:])} for image in images]
    targets[0]["semantic"][:5] = IGNORED
    losses = model(images, targets)
    batch = torch.full((2, 3, 40, 48), 0.5)
    labels = torch.full((2, 40, 48), IGNORED)
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        height, width = image.shape[1:]
        batch[index, :, :height, :width] = image
        labels[index, :height, :width] = target["semantic"]
    outputs = model.network(2 * batch - 1)
    for key, output, weight in (("semantic", "out", 1.0), ("aux", "aux", AUX_WEIGHT)):
        wanted = weight * F.cross_entropy(outputs[output], labels, ignore_index=IGNORED)
        torch.testing.assert_close(losses[f"loss_{key}"], wanted)
    sum(losses.values()).backward()
    missing = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not missing


def test_a_batch_in_which_nothing_counts_has_no_loss() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_loss(logits, torch.full((1, 4, 4), IGNORED))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_each_image_is_labelled_as_if_alone() -> None:
    model = spec_of().build().eval()
    images = [torch.rand(3, 40, 33), torch.rand(3, 25, 48)]
    for image, found in zip(images, model(images), strict=True):
        alone = model.network(normalise(image[None]))["out"].argmax(1)[0]
        assert found["semantic"].equal(alone)


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("fcn_bit", None, "takes images and targets, got no targets"),
        ("deeplabv3_bit", [{}], "DeepLabV3 trains on at least 2 images per process.*; got 1"),
    ],
)
def test_a_segmenter_says_what_it_needs(name: str, targets, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(name).build().train()([torch.rand(3, 32, 32)], targets)


class Oracle(nn.Module):
    """Returns the true labels of a data set, some of them moved by one class."""

    def __init__(self, data: SemanticFolder, wrong: int) -> None:
        super().__init__()
        self.truths = iter([data[i][1]["semantic"] for i in range(len(data))])
        self.wrong = wrong

    def forward(self, images: list) -> list[dict]:
        return [{"semantic": self.answer(next(self.truths))} for _ in images]

    def answer(self, truth: torch.Tensor) -> torch.Tensor:
        answer = truth.where(truth != IGNORED, 0)
        answer.view(-1)[: self.wrong] = 2
        return answer


@pytest.mark.parametrize("batch_size", [1, 4])
def test_mean_iou_is_that_of_scikit_learn(batch_size: int, coco_folder: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    data = SemanticFolder(coco_folder)
    found, truth = [], []
    oracle = Oracle(data, wrong=300)
    for index in range(len(data)):
        semantic = data[index][1]["semantic"]
        found.append(oracle.answer(semantic)[semantic != IGNORED])
        truth.append(semantic[semantic != IGNORED])
    pair = torch.cat(truth).numpy(), torch.cat(found).numpy()
    ious = metrics.jaccard_score(*pair, average=None)
    result = evaluate(Oracle(data, wrong=300), data, batch_size=batch_size)
    assert [result[f"IoU_{n}"] for n in ("background", "block", "bar")] == pytest.approx(list(ious))
    assert result["mIoU"] == pytest.approx(ious.mean())
    assert result["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(*pair))
    assert result["mean_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(*pair))


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    confusion = torch.tensor([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    result = summarize(confusion, ("cat", "dog"))
    assert result["IoU_dog"] == -1
    assert result["mIoU"] == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert summarize(torch.zeros(3, 3, dtype=torch.int64), ("cat", "dog"))["mIoU"] == -1


def test_classes_that_share_a_name_are_told_apart() -> None:
    confusion = torch.tensor([[6, 2, 0, 0], [0, 4, 0, 0], [0, 0, 1, 1], [0, 0, 0, 3]])
    metrics = summarize(confusion, ("cat", "background", "cat"))
    ious = {name: value for name, value in metrics.items() if name.startswith("IoU_")}
    assert ious == pytest.approx(
        {
            "IoU_background (0)": 6 / 8,
            "IoU_cat (1)": 4 / 6,
            "IoU_background (2)": 1 / 2,
            "IoU_cat (3)": 3 / 4,
        }
    )


def test_a_drawn_label_map_has_the_colours_of_its_classes() -> None:
    semantic = torch.zeros(400, 400, dtype=torch.int64)
    semantic[100:200, 100:200], semantic[300:, 300:] = 2, IGNORED
    picture = draw_semantic(torch.zeros(3, 400, 400), semantic, ("cat", "dog"))
    painted = np.array(picture.getpixel((150, 150)))
    assert painted.any()
    assert painted == pytest.approx(0.45 * np.array(colour_of(2)), abs=3)
    assert picture.getpixel((350, 350)) == picture.getpixel((250, 250)) == (0, 0, 0)


def main(given: list[str]) -> int:
    return cli.main(["train", *given])


@pytest.mark.parametrize("name", segmenters())
def test_every_segmenter_trains_and_is_evaluated(name: str, coco_folder: Path, tmp_path) -> None:
    data = SemanticFolder(coco_folder, transforms=semantic_transforms(["hflip"]))
    settings = dataclasses.replace(SETTINGS, channels_last=True, precision="bfloat16")
    spec = spec_of(name, aux_loss=True)
    result = train(spec, data, tmp_path, settings, eval_set=data, show_progress=False)
    assert 0 <= result.metrics["mIoU"] <= 1
    model, loaded = load_detector(tmp_path)
    assert loaded == spec
    states = model.state_dict(), result.model.state_dict()
    assert all(states[0][key].equal(states[1][key]) for key in states[1])


def test_a_segmenter_learns_rectangles(coco_folder: Path, tmp_path: Path) -> None:
    data = SemanticFolder(coco_folder)
    settings = DetectionSettings(
        steps=40, batch_size=3, base_lr=1e-2, optimizer="adamw", warmup_steps=5
    )
    spec = spec_of(output_stride=4)
    result = train(spec, data, tmp_path, settings, eval_set=data, show_progress=False)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-2]["loss"] < log[0]["loss"] / 2
    assert log[-1]["eval_mIoU"] == result.metrics["mIoU"] > 0.5  # all background: 0.28


def test_the_command_trains_tests_and_draws(coco_folder: Path, tmp_path: Path, capsys) -> None:
    run, test = tmp_path / "run", write_coco(tmp_path / "test", 3, seed=1)
    (tmp_path / "bit.json").write_text(json.dumps(VARIANT))
    data = ["--train", str(coco_folder), "--test", str(test), "--output", str(run)]
    options = ["--steps", "2", "--batch-size", "2", "--warmup-steps", "1", "--pictures", "2"]
    model = ["--model", "fcn_bit", "--variant", str(tmp_path / "bit.json")]
    assert main([*data, *model, *options]) == 0
    told = capsys.readouterr().out
    assert "IoU of background" in told
    with Image.open(run / "predictions.jpg") as picture:
        assert min(picture.size) > 320
    assert main([*data, "--test-only", "--pictures", "0"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "mIoU" in line] == [
        line for line in told.splitlines() if "mIoU" in line
    ]
    image = str(coco_folder / "images" / "1.png")
    assert cli.main(["detect", image, "--weights", str(run), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "1_detections.png").exists()


def test_digit_scenes_teach_by_their_own_maps(tmp_path: Path, capsys) -> None:
    scenes = ["--scenes", str(tmp_path / "scenes"), "--scene-images", "2", "2"]
    (tmp_path / "bit.json").write_text(json.dumps(VARIANT))
    model = ["--model", "deeplabv3_bit", "--variant", str(tmp_path / "bit.json")]
    options = ["--steps", "1", "--batch-size", "2", "--warmup-steps", "0", "--pictures", "0"]
    assert main([*model, *options, *scenes, "--output", str(tmp_path / "run")]) == 0
    assert "IoU of 9" in capsys.readouterr().out
    gone = tmp_path / "scenes" / "test2" / "semantic" / "000000.png"
    gone.unlink()
    assert main([*scenes, "--test", str(gone.parents[1]), "--test-maps", "semantic", "--test-only",
                 "--output", str(tmp_path / "run")]) == 3  # fmt: skip
    assert "skipped: the semantic map" in capsys.readouterr().err


def test_a_classifier_is_sent_to_finetune(tmp_path: Path, capsys) -> None:
    assert main(["--model", "bit_r50x1", "--output", str(tmp_path)]) == 2
    assert "train it on folders of images by: bit-backbone finetune" in capsys.readouterr().err
