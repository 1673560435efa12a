"""bit-backbone train, evaluate and detect: results, and errors that say what is wrong."""

import json
from pathlib import Path
from unittest.mock import MagicMock, Mock

import pytest
import torch
from PIL import Image
from rectangles import SMALL, write_coco

from bit_backbone import BitBackbone, BitConfig, BitModel, cli
from bit_backbone.cli.data_options import augmentations
from bit_backbone.cli.model_choice import model_of
from bit_backbone.cli.train_options import detector_arguments, settings_of, spec_of
from bit_backbone.config import DENSE_FEATURE_NORM
from bit_backbone.datasets import DigitScenes, build_scenes
from bit_backbone.detection import runs, tasks, training
from bit_backbone.detection.models import DetectorSpec, check_image
from bit_backbone.torchvision.tiny import TINY

MODEL = ("--model", "fasterrcnn_bit_tiny_fpn", "--argument", "min_size=64")
RECIPE = ("--steps", "2", "--batch-size", "2", "--warmup-steps", "1", "--pictures", "2")


def main(given: list[str]) -> int:
    return cli.main(["train", *given])


def parse(given: list[str]):
    return cli.build_parser().parse_args(["train", *given])


@pytest.fixture
def options(coco_folder: Path, tmp_path: Path) -> list[str]:
    test = write_coco(tmp_path / "test", 3, seed=1)
    return [*MODEL, "--train", str(coco_folder), "--test", str(test), "--output"]


def test_a_run_and_its_test(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*options, str(run), *RECIPE]) == 0
    told = capsys.readouterr().out
    assert "2 steps of 2 images, 6 training and 3 test images" in told
    assert "AP50" in told
    made = {path.name for path in run.iterdir()}
    assert {"detector.json", "last.pt", "log.jsonl", "predictions.jpg"} <= made
    saved = (run / "last.pt").read_bytes()
    assert main([*options, str(run), "--test-only"]) == 0
    again = capsys.readouterr()
    assert table(again.out) == table(told)
    assert "--test-only is now bit-backbone evaluate RUN --test DIR" in again.err
    test = options[options.index("--test") + 1]
    assert cli.main(["evaluate", str(run), "--test", test, "--pictures", "0"]) == 0
    assert table(capsys.readouterr().out) == table(told)
    assert (run / "last.pt").read_bytes() == saved
    assert BitBackbone.from_pretrained(run / "backbone").config.hidden_sizes == TINY.hidden_sizes


def table(text: str) -> list[str]:
    return [line for line in text.splitlines() if "box" in line]


def test_a_test_set_with_other_ids_and_an_other_order(
    options, tmp_path: Path, capsys, caplog
) -> None:
    run, test = tmp_path / "run", Path(options[options.index("--test") + 1])
    assert main([*options, str(run), *RECIPE, "--base-lr", "0.001"]) == 0
    told = table(capsys.readouterr().out)
    content = json.loads((test / "instances.json").read_text())
    ids = {7: 1, 2: 90}
    for record in content["categories"]:
        record["id"] = ids[record["id"]]
    content["categories"].append({"id": 4, "name": "ball"})
    for record in content["annotations"]:
        record["category_id"] = ids[record["category_id"]]
    (test / "instances.json").write_text(json.dumps(content))
    assert cli.main(["evaluate", str(run), "--test", str(test), "--pictures", "0"]) == 0
    assert table(capsys.readouterr().out) == told
    assert "the model has no ball: 0 objects; left out" in caplog.text


def test_digit_scenes_are_made_on_first_use(tmp_path: Path) -> None:
    scenes = ["--scenes", str(tmp_path / "scenes"), "--scene-images", "3", "2"]
    assert main([*MODEL, *RECIPE, *scenes, "--output", str(tmp_path / "run")]) == 0
    assert (tmp_path / "scenes" / "train3" / "manifest.json").exists()
    spec = json.loads((tmp_path / "run" / "detector.json").read_text())
    assert spec["categories"] == [str(digit) for digit in range(10)]


def break_box(content: dict) -> None:
    content["annotations"][3]["bbox"][2] = 0


def break_category(content: dict) -> None:
    content["annotations"][3]["category_id"] = 5


def break_place(content: dict) -> None:
    content["annotations"][3]["bbox"][0] = 4000


def break_file(content: dict) -> None:
    content["images"][1]["file_name"] = "gone.png"


@pytest.mark.parametrize(
    ("damage", "file", "ids"),
    [
        (break_box, "2.png", "(image 2, annotation 5)"),
        (break_category, "2.png", "(image 2, annotation 5)"),
        (break_place, "2.png", "(image 2, annotation 5)"),
        (break_file, "gone.png", "(image 2)"),
    ],
)
def test_bad_annotations_are_reported_with_file_and_id(
    damage, file: str, ids: str, options: list[str], coco_folder: Path, tmp_path: Path, capsys
) -> None:
    path = coco_folder / "instances.json"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    assert main([*options, str(tmp_path / "run"), *RECIPE, "--on-invalid", "raise"]) == 2
    told = capsys.readouterr().err
    assert f"{file} {ids}: " in told
    assert "pass --on-invalid skip to continue without these records" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["fasterrcnn_bit_tiny_fpn", "fcn_bit"])
@pytest.mark.parametrize(
    ("split", "option"), [("train", []), ("test", []), ("test", ["--test-only"])]
)
def test_a_set_without_images_is_rejected_before_training(
    split: str,
    option: list[str],
    model: str,
    options: list[str],
    tmp_path: Path,
    capsys,
    monkeypatch,
) -> None:
    folder = Path(options[options.index(f"--{split}") + 1])
    content = json.loads((folder / "instances.json").read_text())
    content |= {"images": [], "annotations": []}
    (folder / "instances.json").write_text(json.dumps(content))
    spec = DetectorSpec(model, ("block", "bar"))
    monkeypatch.setattr(runs, "load_detector", lambda *_: (torch.nn.Identity(), spec))
    request = [*options, str(tmp_path / "run"), *RECIPE, "--model", model, *option]
    assert main(request) == 2
    told = capsys.readouterr().err
    message = f"a {split} set needs at least one image, and {folder / 'instances.json'} lists none"
    assert message in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_of_ones_own_has_both_parts(
    split: str, coco_folder: Path, tmp_path: Path, capsys
) -> None:
    given = [*MODEL, f"--{split}", str(coco_folder), "--output", str(tmp_path / "run"), *RECIPE]
    assert main(given) == 2
    assert f"got --{split} {coco_folder} without --" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model", "fasterrcnn_resnet50_fpn"], "the BiT detectors are"),
        (["--augment", "mirror"], "augmentations are hflip"),
        (["--base-lr", "0"], "base_lr must be a positive number, got 0.0"),
        (["--warmup-steps", "5"], "warmup_steps must be less than steps, 2, got 5"),
        (["--test-only"], "a run's folder holds detector.json and last.pt"),
        (["--variant", "R51x1", "--model", "fasterrcnn_bit_fpn"], "R51x1"),
        (["--train", "nowhere"], "a data set must be a folder or a file; nowhere does not exist"),
    ],
)
def test_a_wrong_option_is_an_error(
    extra: list[str], message: str, options: list[str], tmp_path: Path, capsys
) -> None:
    assert main([*options, str(tmp_path / "run"), *RECIPE, *extra]) == 2
    told = capsys.readouterr().err
    assert "bit-backbone: error: " in told
    assert message in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--batch-size", "0"], "a whole number of at least 1, got '0'"),
        (["--batch-size", "-4"], "a whole number of at least 1, got '-4'"),
        (["--epochs", "inf"], "a finite number above 0, got 'inf'"),
        (["--epochs", "nan"], "a finite number above 0, got 'nan'"),
        (["--epochs", "0"], "a finite number above 0, got '0'"),
        (["--epochs", "many"], "a finite number above 0, got 'many'"),
        (["--device", "nope"], "such as cpu or cuda:0, got 'nope'"),
        (["--device", "cuda:99"], "such as cpu or cuda:0, got 'cuda:99'"),
    ],
)
def test_a_value_that_no_run_can_have_is_a_usage_error(given, message: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--output", "run", *given])
    assert message in capsys.readouterr().err.replace('"', "'")


@pytest.mark.parametrize("form", ["cktiny", "./cktiny", "../here/cktiny", "{}/cktiny"])
def test_a_local_checkpoint_is_recorded_in_one_form(form: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here" / "cktiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    given = ["--output", "run", "--weights-backbone", form.format(tmp_path / "here")]
    arguments = detector_arguments(parse(given))
    assert arguments == {"weights_backbone": str(tmp_path / "here" / "cktiny")}


def test_a_published_checkpoint_is_recorded_by_its_name() -> None:
    given = ["--output", "run", "--weights-backbone", "BiT-M-R50x1"]
    arguments = detector_arguments(parse(given))
    assert arguments == {"weights_backbone": "BiT-M-R50x1"}


def test_an_interrupted_test_is_told_in_the_exit_status(
    options: list[str], tmp_path: Path, monkeypatch
) -> None:
    run = [*options, str(tmp_path / "run"), *RECIPE, "--pictures", "0"]
    assert main(run) == 0
    monkeypatch.setattr(tasks, "evaluate_on", Mock(side_effect=KeyboardInterrupt))
    assert main([*run, "--test-only"]) == 130


@pytest.mark.parametrize(
    ("kind", "norm"),
    [(BitModel, DENSE_FEATURE_NORM), (BitBackbone, "none")],  # the latter has no last norm
)
def test_the_folder_of_weights_decides_the_variant(kind, norm: str, tmp_path: Path) -> None:
    shape = BitConfig(hidden_sizes=(16, 32, 64, 64), embedding_size=8, num_groups=4)
    kind(shape.replace(depths=(1, 1, 1, 1))).save_pretrained(tmp_path / "bit")
    given = ["--output", str(tmp_path / "run"), "--weights", str(tmp_path / "bit")]
    arguments = detector_arguments(parse([*given, "--model", "retinanet_bit_fpn"]))
    variant = BitConfig.from_dict(arguments["variant"])
    assert (variant.hidden_sizes, variant.num_groups) == ((16, 32, 64, 64), 4)
    assert variant.feature_norm == norm
    spec = DetectorSpec("retinanet_bit_fpn", ("cat",), arguments)
    loaded = spec.build().backbone.body.stem.conv.weight
    assert loaded.equal(BitBackbone.from_pretrained(tmp_path / "bit").stem.conv.weight)
    tiny = detector_arguments(parse([*given, *MODEL]))
    assert set(tiny) == {"weights_backbone", "min_size"}  # whose network is fixed
    named = detector_arguments(parse([*given, "--variant", "R50x1"]))
    assert named["variant"] == "R50x1"


def test_a_run_that_recorded_no_variant_is_resumed_without(tmp_path: Path) -> None:
    BitBackbone(BitConfig(depths=(1, 1, 1, 1))).save_pretrained(tmp_path / "bit")
    runs.save_spec(tmp_path / "run", DetectorSpec("retinanet_bit_fpn", ("cat",)))
    given = ["--output", str(tmp_path / "run"), "--weights", str(tmp_path / "bit")]
    arguments = detector_arguments(parse([*given, "--model", "retinanet_bit_fpn"]))
    assert set(arguments) == {"weights_backbone"}


@pytest.mark.parametrize("text", ["min_size", "min_size=", "feature_norm=preact"])
def test_an_argument_that_is_no_json_is_a_usage_error(text: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--output", "run", "--argument", text])
    assert f"NAME=JSON, such as min_size=480 or feature_norm=\"preact\", got '{text}'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], []),  # digits are not mirrored
        (["--train", "coco"], ["hflip"]),
        (["--train", "coco", "--model", "keypointrcnn_bit_fpn"], []),
        (["--train", "coco", "--augment"], []),
        (["--augment", "hflip", "photometric"], ["hflip", "photometric"]),
    ],
)
def test_what_is_augmented_depends_on_the_data(given: list[str], wanted: list[str]) -> None:
    assert augmentations(parse(["--output", "run", *given])) == wanted


def test_digits_are_not_mirrored_wherever_they_lie(tmp_path: Path) -> None:
    build_scenes(DigitScenes("train", 1), tmp_path / "scenes")
    given = ["--output", "run", "--train", str(tmp_path / "scenes")]
    assert augmentations(parse(given)) == []
    (tmp_path / "scenes" / "manifest.json").write_text("{}")
    assert augmentations(parse(given)) == ["hflip"]


@pytest.mark.parametrize(
    ("given", "images", "steps"),
    [
        (["--model", "fasterrcnn_bit_fpn"], 1000, 12 * 250),
        (["--epochs", "0.5"], 1000, 250),
        (["--epochs", "0.5", "--batch-size", "4"], 1000, 125),
        (["--steps", "700"], 1000, 700),
        ([], 1000, 6 * 500),
        ([], 100, 1000),  # too few images for 6 epochs to be enough
    ],
)
def test_the_length_is_told_in_epochs_or_steps(given, images: int, steps: int) -> None:
    args = parse(["--output", "run", "--device", "cpu", *given])
    assert settings_of(args, images).steps == steps


@pytest.mark.parametrize(
    ("given", "size", "arguments"),
    [
        ([], (480, 640), {"min_size": 240}),
        ([], (320, 200), {"min_size": 200}),
        ([], (160, 192), {}),
        ([], (64, 48), {}),
        (["--argument", "min_size=100"], (480, 640), {"min_size": 100}),
        (["--model", "fasterrcnn_bit_fpn"], (480, 640), {}),
    ],
)
def test_the_tiny_model_takes_images_as_large_as_they_are(given, size, arguments, tmp_path) -> None:
    sizes = [(10, 10), size, size, (2000, 3000)]
    dataset = MagicMock(
        categories=("cat",), keypoint_names=(), get_height_and_width=sizes.__getitem__
    )
    dataset.__len__ = lambda self: len(sizes)
    args = parse(["--output", str(tmp_path), "--device", "cpu", *given])
    spec = spec_of(args, dataset)
    assert spec.arguments == arguments
    args = parse(["--output", str(tmp_path), "--device", "cpu"])  # resumed, with other images
    runs.save_spec(tmp_path, spec)
    sizes[:] = [(800, 800)] * 4
    assert spec_of(args, dataset).arguments == arguments


@pytest.mark.parametrize(
    ("given", "gpu", "model"),
    [
        ([], False, "fasterrcnn_bit_tiny_fpn"),
        ([], True, "fasterrcnn_bit_fpn"),
        (["--device", "cpu"], True, "fasterrcnn_bit_tiny_fpn"),
        (["--variant", "R50x1"], False, "fasterrcnn_bit_fpn"),
        (["--weights", "BiT-M-R50x1"], False, "fasterrcnn_bit_fpn"),
        (["--model", "fcn_bit"], False, "fcn_bit"),
    ],
)
def test_the_model_fits_the_machine(given, gpu: bool, model: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    args = parse(["--output", str(tmp_path), *given])
    assert model_of(args) == model
    settings = settings_of(args, 1000)
    tiny = model == "fasterrcnn_bit_tiny_fpn"
    assert (settings.optimizer, settings.base_lr, settings.clip_norm) == (
        ("adamw", 1e-3, 1.0) if tiny else ("sgd", 0.005, 10.0)
    )
    args = parse(["--output", str(tmp_path), *given, "--base-lr", "0.5", "--optimizer", "sgd"])
    assert (settings_of(args, 1000).optimizer, settings_of(args, 1000).base_lr) == ("sgd", 0.5)


def test_a_run_is_resumed_with_its_model_where_a_gpu_came_or_went(
    options: list[str], tmp_path: Path, capsys, monkeypatch
) -> None:
    given = [*options[2:], str(tmp_path / "run"), *RECIPE]  # without --model
    assert main([*given, "--device", "cpu"]) == 0
    assert "a tiny model, because there is no GPU" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = parse(given)
    assert model_of(args) == "fasterrcnn_bit_tiny_fpn"
    assert settings_of(args, 6).optimizer == "adamw"


def test_a_variant_may_be_a_file(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "bit.json").write_text(json.dumps(SMALL["variant"]))
    request = [*options, str(tmp_path / "run"), *RECIPE, "--model", "retinanet_bit_fpn"]
    assert main([*request, "--base-lr", "1e-4", "--variant", str(tmp_path / "bit.json")]) == 0
    spec = json.loads((tmp_path / "run" / "detector.json").read_text())
    assert spec["arguments"]["variant"] == SMALL["variant"]


def test_detect_draws_on_any_image(options: list[str], tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert main([*options, str(run), *RECIPE, "--pictures", "0"]) == 0
    assert not (run / "predictions.jpg").exists()
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("L", (90, 70), 40).save(photos / "grey.png")
    (photos / "broken.jpg").write_text("no image")
    Image.new("RGB", (9000, 2)).save(photos / "thin.png")  # 1333 x 0 in the detector
    given = [str(photos / name) for name in ("thin.png", "grey.png", "broken.jpg")]
    capsys.readouterr()
    request = ["detect", *given, "--weights", str(run), "--output", str(tmp_path / "drawn")]
    assert cli.main([*request, "--min-score", "0"]) == 3
    told = capsys.readouterr()
    assert f"skipped {photos / 'broken.jpg'}: " in told.err
    assert f"skipped {photos / 'thin.png'}: an image of 9000x2 is too thin: " in told.err
    assert "1 of 3 images, 2 failed" in told.out
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["grey_detections.png"]
    with Image.open(tmp_path / "drawn" / "grey_detections.png") as picture:
        assert picture.size == (90 * 5, 70 * 5)
        assert len(picture.getcolors(1 << 20)) > 1  # something was drawn on the grey
    assert cli.main(["detect", given[1], "--weights", str(run / "last.pt")]) == 0
    assert (photos / "grey_detections.png").exists()


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (1, 201), (2, 401), (1, 1)])
def test_an_image_is_too_thin_just_where_resizing_fails(size: tuple) -> None:
    model = DetectorSpec("fasterrcnn_bit_tiny_fpn", ("thing",), {"max_size": 200}).build()
    image = torch.zeros(3, *size)
    try:
        model.eval().transform([image])
    except RuntimeError:
        with pytest.raises(ValueError, match="too thin: the detector makes its longer side at "):
            check_image(model, image)
    else:
        check_image(model, image)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["a.png"], "a run's folder holds detector.json and last.pt"),
        (["x/a.png", "y/a.png"], "two would be drawn/a_detections.png"),
    ],
)
def test_detect_says_what_is_wrong(images: list[str], message: str, tmp_path: Path, capsys) -> None:
    request = ["detect", *images, "--weights", str(tmp_path), "--output", "drawn"]
    assert cli.main(request) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan", "high"])
def test_a_score_that_is_none_is_a_usage_error(score: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["detect", "a.png", "--weights", "run", f"--min-score={score}"])
    assert f"must be a score between 0 and 1, got '{score}'" in capsys.readouterr().err


def test_test_only_evaluates_in_the_precision_of_training(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(*args, **options):
        seen.append(torch.is_autocast_enabled("cpu"))
        return {"box_AP": 0.5}

    monkeypatch.setattr(tasks, "evaluate_on", spy)
    monkeypatch.setattr(training, "evaluate_on", spy)
    run = [*options, str(tmp_path / "run"), *RECIPE, "--pictures", "0"]
    for extra in ([], ["--test-only"], ["--test-only", "--amp"]):
        assert main([*run, *extra]) == 0
    assert main([*options, str(tmp_path / "other"), *RECIPE, "--pictures", "0", "--amp"]) == 0
    assert seen == [False, False, True, True]
