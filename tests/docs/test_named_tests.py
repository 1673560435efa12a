"""The tests that the site names exist."""

import re

import pytest
from pages import DOCS, ROOT, page_names


@pytest.mark.parametrize("page", page_names())
def test_every_file_and_test_that_a_page_names_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    names = re.findall(r"`((?:tests|tools|configs|examples)/[\w/.-]*)(?:::(\w+))?`", text)
    for name, _ in names:
        assert (ROOT / name).exists(), f"{page} names {name}"
    file = ""
    for name, test in re.findall(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)`", text):
        file = name or file
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{page} names {test}"
