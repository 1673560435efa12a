"""The explorer that the site shows is the present one, and works."""

import re
from importlib.resources import files

from browser import opened
from pages import DOCS

PAGE = DOCS / "guides" / "explorer.html"


def test_the_page_was_made_from_the_present_template():
    template = files("bit_backbone.visualization").joinpath("explorer.html").read_text("utf-8")
    parts = re.split("@[A-Z]+@", template)
    pattern = "(.*)".join(map(re.escape, parts))
    assert re.fullmatch(pattern, PAGE.read_text("utf-8"), re.DOTALL), (
        "make docs/guides/explorer.html again, as docs/guides/app.md says"
    )


def test_the_page_is_small_enough_for_the_repository():
    assert PAGE.stat().st_size < 1_000_000


def test_the_page_works_without_a_network():
    with opened(PAGE) as visit:
        visit.page.wait_for_selector("body[data-milliseconds]")
        assert visit.texts("figcaption b") == [
            "photograph", "stem", "stage1", "stage2", "stage3", "stage4"
        ]  # fmt: skip
        assert visit.page.evaluate("Math.max(...maps.stage4.values)") > 0.999
    assert not visit.errors
    assert not visit.requests
