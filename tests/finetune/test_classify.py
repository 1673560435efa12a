"""bit-backbone classify: labels, batches, JSON lines, images that cannot be read."""

import json

import pytest
import torch
from photographs import photograph
from PIL import Image

from bit_backbone import (
    BitBackbone,
    BitConfig,
    BitForImageClassification,
    BitImageProcessor,
    BitModel,
)
from bit_backbone.cli import main
from bit_backbone.finetune.classification import classify
from bit_backbone.finetune.labels import class_names, imagenet_labels

TINY = BitConfig(
    embedding_size=16, hidden_sizes=(32, 64, 128, 256), depths=(1, 1, 1, 1), num_groups=8,
    num_labels=7,
)  # fmt: skip


# What shapes alone tell of: groups of 32.
WIDE = BitConfig(embedding_size=32, hidden_sizes=(128, 128, 256, 256), depths=(1, 1, 1, 1))


@pytest.fixture
def images(tmp_path):
    paths = []
    for name in ("china", "page", "palette", "cmyk", "logo"):
        suffix = "jpg" if name == "cmyk" else "png"
        paths.append(tmp_path / f"{name} [1].{suffix}")
        photograph(name).save(paths[-1])
    return paths


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a named head and its own preprocessing."""
    folder = tmp_path / "checkpoint"
    names = {i: f"kind {i}" for i in range(7)}
    BitForImageClassification(TINY, id2label=names).save_pretrained(folder)
    BitImageProcessor.from_preset("official", size=(40, 48)).save_pretrained(folder)
    return folder


def expected(checkpoint, paths, top=5):
    model = BitForImageClassification.from_pretrained(checkpoint)
    batch = BitImageProcessor.from_pretrained(checkpoint)(paths, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits.softmax(-1).topk(top)


def test_json_lines(images, checkpoint, capsys):
    arguments = ["classify", *map(str, images), "--weights", str(checkpoint), "--json"]
    assert main([*arguments, "--batch-size", "2", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in images]
    best = expected(checkpoint, images)
    for line, classes, values in zip(lines, best.indices, best.values, strict=True):
        assert [p["class"] for p in line["predictions"]] == classes.tolist()
        assert [p["label"] for p in line["predictions"]] == [f"kind {c}" for c in classes]
        assert [p["probability"] for p in line["predictions"]] == pytest.approx(values.tolist())
    assert "5 of 5 images classified, 0 failed" in err


@pytest.mark.parametrize("precision", ["int8", "auto", "bfloat16"])
def test_fewer_bits(precision, images, checkpoint, capsys, monkeypatch):
    from bit_backbone.inference import quantization

    monkeypatch.setattr(quantization, "has_int8", lambda: True)
    arguments = ["classify", str(images[0]), "--weights", str(checkpoint), "--json", "--top", "7"]
    assert main([*arguments, "--precision", precision]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    best = expected(checkpoint, images[:1], 7)
    wanted = dict(zip(best.indices[0].tolist(), best.values[0].tolist(), strict=True))
    found = {entry["class"]: entry["probability"] for entry in line["predictions"]}
    assert found.keys() == wanted.keys()
    assert max(abs(found[index] - wanted[index]) for index in wanted) < 0.05


def test_text(images, checkpoint, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    arguments = ["classify", str(images[0]), "--weights", str(checkpoint), "--top", "2"]
    assert main([*arguments, "--labels", str(tmp_path / "names.txt")]) == 0
    best = expected(checkpoint, images[:1], top=2)
    rows = [f"  {v:6.1%}  {'abcdefg'[c]}" for c, v in zip(best.indices[0], best.values[0])]  # noqa: B905
    assert capsys.readouterr().out.splitlines() == [str(images[0]), *rows]


def test_a_folder_of_weights_alone_is_read_with_the_official_preset(images, tmp_path, capsys):
    torch.manual_seed(0)
    BitForImageClassification(TINY).save_pretrained(tmp_path / "weights")
    arguments = ["classify", str(images[0]), "--weights", str(tmp_path / "weights"), "--json"]
    assert main(arguments) == 0
    found = capsys.readouterr().out
    BitImageProcessor.from_preset("official").save_pretrained(tmp_path / "weights")
    assert main(arguments) == 0
    assert capsys.readouterr().out == found
    BitImageProcessor(size=40, crop_size=40).save_pretrained(tmp_path / "weights")
    assert main(arguments) == 0
    assert capsys.readouterr().out != found


@pytest.mark.parametrize("workers", ["0", "2"])
def test_images_that_cannot_be_read_are_skipped(images, checkpoint, tmp_path, capsys, workers):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(images[0].read_bytes()[:3000])
    deep = tmp_path / "deep.tif"
    Image.new("I", (9, 9), 70_000).save(deep)
    paths = [broken, images[0], cut, images[1], deep, tmp_path / "none.png"]
    arguments = ["classify", *map(str, paths), "--weights", str(checkpoint), "--json"]
    assert main([*arguments, "--batch-size", "1", "--workers", workers]) == 3
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert ["error" in line for line in lines] == [True, False, True, False, True, True]
    best = expected(checkpoint, images[:2])
    told = [line["predictions"][0]["class"] for line in lines if "error" not in line]
    assert told == best.indices[:, 0].tolist()
    for path in (broken, cut, deep, tmp_path / "none.png"):
        assert f"skipped {path}: " in err
    assert "got 32 bits, of which some will not be used: pass --bit-depth 16" in err
    assert err.splitlines()[-1] == "2 of 6 images classified, 4 failed"


def test_a_file_of_weights_is_classified_by_the_official_preset(images, tmp_path, capsys):
    # Widths that 32 groups divide: a file does not tell their number.
    config = TINY.replace(
        num_groups=32, embedding_size=32, hidden_sizes=(128, 128, 128, 128),
        weight_standardization_eps=1e-8,  # which a file does not tell either
    )  # fmt: skip
    BitForImageClassification(config).save_pretrained(tmp_path / "c")
    BitImageProcessor.from_preset("official_small").save_pretrained(tmp_path / "c")
    results = {}
    for name, arguments in {
        "folder": ["c"],
        "file": ["c/model.safetensors"],
        "as the file": ["c", "--preset", "official"],
        "as the folder": ["c/model.safetensors", "--preset", "official_small"],
    }.items():
        checkpoint, *options = arguments
        options += ["--weights", str(tmp_path / checkpoint), "--json"]
        assert main(["classify", str(images[0]), *options]) == 0
        results[name] = json.loads(capsys.readouterr().out)
    assert results["folder"] != results["file"]
    assert results["folder"] == results["as the folder"]
    assert results["file"] == results["as the file"]


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"num_labels": 0}, [], "has no classifier; classify takes weights with one"),
        ({}, ["--preset", "best"], "'best' is neither a preset"),
        ({}, ["--labels", "LABELS"], "a head of 7 classes needs 7 names, got 2"),
        ({}, ["--labels", "BLANK"], "should hold one class name per line, and is empty"),
    ],
)
def test_what_is_rejected(tmp_path, images, changes, arguments, message, capsys):
    BitForImageClassification(TINY, **changes).save_pretrained(tmp_path / "c")
    BitImageProcessor().save_pretrained(tmp_path / "c")
    (tmp_path / "LABELS").write_text("a\nb\n")
    (tmp_path / "BLANK").write_text("\n \n")
    arguments = [str(tmp_path / a) if a.isupper() else a for a in arguments]
    assert main(["classify", str(images[0]), "--weights", str(tmp_path / "c"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_backbone_is_no_classifier(tmp_path, images, capsys):
    backbone = BitBackbone(WIDE)
    backbone.save_pretrained(tmp_path / "backbone")
    torch.save(backbone.state_dict(), tmp_path / "backbone.pt")
    torch.save(BitModel(WIDE).state_dict(), tmp_path / "model.pt")
    for name in ("backbone", "backbone.pt", "model.pt"):
        assert main(["classify", str(images[0]), "--weights", str(tmp_path / name)]) == 2
        assert f"{name} has no classifier; classify takes" in capsys.readouterr().err


def test_batches_need_one_size(images):
    model = BitForImageClassification(TINY).eval()
    ragged = BitImageProcessor(do_center_crop=False)
    with pytest.raises(ValueError, match=r"need one size.*\{'shortest_edge': 224\} without a crop"):
        list(classify(model, ragged, images))
    assert len(list(classify(model, ragged, images[:2], batch_size=1))) == 2


def test_what_a_processor_returns_by_default_does_not_matter(images):
    model = BitForImageClassification(TINY).eval()
    plain = BitImageProcessor(size=40, crop_size=40)
    other = plain.replace(return_tensors="np", data_format="channels_last")
    expected = list(classify(model, plain, images))
    assert all(prediction.error is None for prediction in expected)
    assert list(classify(model, other, images)) == expected


def test_padding_makes_one_size(images):
    model = BitForImageClassification(TINY).eval()
    processor = BitImageProcessor(size=40, do_center_crop=False, do_pad=True, pad_size=120)
    found = list(classify(model, processor, images))
    batch = processor(images, return_tensors="pt")
    with torch.no_grad():
        best = model(**batch).logits.softmax(-1).topk(5)
    assert batch.pixel_values.shape == (5, 3, 120, 120)
    for prediction, values in zip(found, best.values, strict=True):
        assert prediction.probabilities == pytest.approx(values.tolist())
    with pytest.raises(ValueError, match="need one size"):  # each would be padded to itself
        list(classify(model, BitImageProcessor(do_center_crop=False, do_pad=True), images))


def test_class_names():
    assert imagenet_labels()[0] == "tench"
    assert len(imagenet_labels()) == 1000
    assert imagenet_labels()[-1] == "toilet tissue"
    assert class_names(BitConfig()) == imagenet_labels()
    assert class_names(TINY) == tuple(f"class {i}" for i in range(7))
    assert class_names(TINY.replace(id2label={0: "cat", 1: "dog"})) == ("cat", "dog")
