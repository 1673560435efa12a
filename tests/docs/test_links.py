"""Every link between the pages leads to a file, and to a heading in it."""

import re
from pathlib import Path

import pytest
from pages import DOCS, ROOT, page_names

PAGES = ["../README.md", "../CONTRIBUTING.md", *page_names()]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


def prose(text: str) -> str:
    """A page without its blocks of code, in which `#` begins a comment."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in a link."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(text), re.MULTILINE):
        own = re.search(r"\{ *#([\w-]+) *\}", heading)
        plain = re.sub(r"[^\w\s-]", "", heading).strip().lower()
        found.add(own[1] if own else re.sub(r"[-\s]+", "-", plain))
    return found


def broken_links(path: Path) -> list[str]:
    broken = []
    for name, anchor in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        target = path.parent / name if name else path
        if not target.exists():
            broken.append(f"{name}: no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            broken.append(f"{name}#{anchor}: no such heading")
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    assert broken_links(DOCS / page) == []


def test_what_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "to.md").write_text("# A `title`, two\n\n## Other { #named }\n\n```\n# code\n```\n")
    page = tmp_path / "from.md"
    good = "[a](to.md#a-title-two) [b](to.md#named) [c](#here) [d](https://a.b/c#d)"
    page.write_text(f"# Here\n\n{good}\n\n[e](to.md#other) [f](no.md) [g](to.md#code)\n")
    assert broken_links(page) == [
        "to.md#other: no such heading",
        "no.md: no such file",
        "to.md#code: no such heading",
    ]


def test_the_pages_link_to_each_other() -> None:
    """The links of the test above are found at all."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(LINK.findall(prose(readme))) > 20
