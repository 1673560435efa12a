"""Files of class names."""

import pytest

from bit_backbone.finetune.labels import read_labels


@pytest.mark.parametrize(
    "data",
    [
        b"cat\ndog",
        b"cat\ndog\n",
        b"cat\ndog\n\n",
        b"cat\r\ndog\r\n \r\n\r\n",
        b"\xef\xbb\xbfcat\n dog \n",
    ],
)
def test_names_are_the_lines_up_to_the_last_name(data, tmp_path):
    (tmp_path / "names.txt").write_bytes(data)
    assert read_labels(tmp_path / "names.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should hold one class name per line, and is empty"),
        ("\n \n", "should hold one class name per line, and is empty"),
        ("cat\n\ndog\n", "should hold one class name per line; line 2 is blank"),
        ("\ncat\ndog\n\n", "line 1 is blank: write a name there, or take the line out"),
    ],
)
def test_what_are_no_names(text, message, tmp_path):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "names.txt")
