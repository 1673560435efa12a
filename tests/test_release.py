"""What a release is made of says one thing: version, citation, policy, changelog."""

import re
from pathlib import Path

import pytest
import yaml

import bit_backbone

ROOT = Path(__file__).parents[1]
# Of the schema of CITATION.cff 1.2.0, what each kind of record must have.
REQUIRED = {"authors", "cff-version", "message", "title"}
REQUIRED_OF_REFERENCES = {"authors", "title", "type"}


@pytest.fixture(scope="module")
def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place_and_the_citation_repeats_it(citation) -> None:
    assert citation["version"] == bit_backbone.__version__
    assert citation["license"] == "Apache-2.0"


def test_the_citation_has_what_its_schema_requires(citation) -> None:
    assert citation.keys() >= REQUIRED
    assert citation["cff-version"] == "1.2.0"
    paper = citation["preferred-citation"]
    assert paper.keys() >= REQUIRED_OF_REFERENCES
    for author in citation["authors"] + paper["authors"]:
        assert "name" in author or {"family-names", "given-names"} <= author.keys()
    assert re.fullmatch(r"10\.\d{4,9}/\S+", paper["doi"])


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.match(r"\[\d+\.\d+\.\d+\S*\] - \d{4}-\d\d-\d\d$", one) for one in headings[1:])
    released = [re.match(r"\[(.+)\]", heading)[1] for heading in headings[1:]]
    assert bit_backbone.__version__ in released or ".dev" in bit_backbone.__version__


def test_what_the_security_policy_names_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+)`", text)
    assert named
    assert all((ROOT / name).is_file() for name in named)
