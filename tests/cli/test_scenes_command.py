"""``bit-backbone scenes``."""

import json
import sys

import pytest

from bit_backbone import cli


def test_it_builds_what_the_arguments_say(tmp_path, capsys) -> None:
    target = tmp_path / "set"
    arguments = "--split test --images 3 --image-size 120x130 --objects 1 2 --digit-height 20 40"
    assert cli.main(["scenes", str(target), *arguments.split(), "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{target}: 3 images, ")
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["arguments"] == {
        "split": "test",
        "num_images": 3,
        "image_size": [120, 130],
        "num_objects": [1, 2],
        "digit_height": [20, 40],
        "min_visible": 0.7,
        "seed": 5,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "120xx"], "an image size is HEIGHTxWIDTH in pixels"),
        (["--split", "val"], "invalid choice: 'val'"),
        (["--images", "many"], "invalid int value: 'many'"),
    ],
)
def test_usage_errors(arguments, message, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["scenes", str(tmp_path / "set"), *arguments])
    assert message in capsys.readouterr().err


def test_bad_values_and_missing_extras_are_told_in_a_line(tmp_path, capsys, monkeypatch) -> None:
    assert cli.main(["scenes", str(tmp_path / "set"), "--images", "0"]) == 2
    error = capsys.readouterr().err
    assert error == "bit-backbone: error: num_images should be at least 1; got 0\n"
    from bit_backbone.datasets import sources

    sources.photographs.cache_clear()
    sources.digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert cli.main(["scenes", str(tmp_path / "set")]) == 2
    assert 'pip install "bit-backbone[demo]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
