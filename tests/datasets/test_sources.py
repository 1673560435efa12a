"""The digits and photographs: what each split holds, and that nothing is shared or downloaded."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bit_backbone.datasets.digits import sources
from bit_backbone.utils.extras import MissingExtraError


@pytest.mark.parametrize(("split", "count"), [("train", 1347), ("test", 450)])
def test_digits_of_a_split(split, count) -> None:
    ink, labels = sources.digits(split)
    assert (ink.shape, ink.dtype) == ((count, 8, 8), np.float32)
    assert (ink.min(), ink.max()) == (0, 1)
    assert np.bincount(labels).min() >= 0.09 * count


def test_the_splits_share_no_digit_and_leave_none_out() -> None:
    train, test = sources.digits("train"), sources.digits("test")
    assert np.array_equal(np.concatenate([train[0], test[0]]) * 16, load_digits().images)
    pixels = [{digit.tobytes() for digit in split[0]} for split in (train, test)]
    assert not pixels[0] & pixels[1]


def test_the_splits_share_no_photograph() -> None:
    train, test = (sources.photographs(split) for split in sources.SPLITS)
    assert {photo.mode for photo in train + test} == {"RGB"}
    contents = [photo.tobytes() for photo in train + test]
    assert len(set(contents)) == len(contents) == 10


def test_every_photograph_is_listed_in_its_distribution() -> None:
    """What a wheel does not contain could be a download of an earlier run."""
    from importlib.metadata import files

    shipped = {str(path) for name in ("scikit-learn", "scikit-image") for path in files(name)}
    for photo in sources.PHOTOGRAPHS["train"] + sources.PHOTOGRAPHS["test"]:
        assert f"{photo.package}/{photo.path}" in shipped


@pytest.mark.parametrize("function", [sources.digits, sources.photographs])
def test_another_split_is_rejected(function) -> None:
    with pytest.raises(ValueError, match="split should be one of train, test; got 'val'"):
        function("val")


@pytest.mark.parametrize(
    ("blocked", "call"),
    [("sklearn", "digits('train')"), ("skimage", "photographs('test')")],
)
def test_a_missing_extra_names_itself_and_the_way_out(blocked, call) -> None:
    code = f"import sys; sys.modules[{blocked!r}] = None\n"
    code += f"from bit_backbone.datasets.digits import sources; sources.{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"MissingExtraError: DigitScenes needs {blocked}" in done.stderr
    assert 'pip install "bit-backbone[demo]"' in done.stderr


def test_a_release_without_a_photograph_is_rejected(tmp_path, monkeypatch) -> None:
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sklearn")
    sources.photographs.cache_clear()
    message = r"images/flower.jpg of sklearn, .* does not contain it; .*\[demo\]"
    with pytest.raises(MissingExtraError, match=message):
        sources.photographs("test")
