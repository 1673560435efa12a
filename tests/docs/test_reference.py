"""The reference has all that the package exports."""

import importlib
import importlib.util
import pkgutil
import re
import sys

import pytest
from pages import DOCS

import bit_backbone

LISTED = {
    name
    for page in (DOCS / "reference").glob("*.md")
    for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
}
PACKAGES = ["bit_backbone"] + [
    found.name
    for found in pkgutil.iter_modules(bit_backbone.__path__, "bit_backbone.")
    if found.ispkg and found.name != "bit_backbone.cli"  # which --help documents
]


def home_of_constant(package: str, name: str) -> str:
    """The module of a package that defines a constant, which knows of none itself."""
    modules = (part for part in sys.modules if part.startswith(f"{package}."))
    return next(part for part in modules if name in vars(sys.modules[part]))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_is_in_the_reference(package: str) -> None:
    if package.endswith(".detectron2") and importlib.util.find_spec("detectron2") is None:
        pytest.skip("detectron2 is not installed")
    module = importlib.import_module(package)
    for name in set(getattr(module, "__all__", ())) - {"__version__"}:
        value = getattr(module, name)
        home = getattr(value, "__module__", None) or home_of_constant(package, name)
        own = f"{home}.{getattr(value, '__name__', name)}"
        assert {own, home, package, f"{package}.{name}"} & LISTED, f"{package}.{name} is {own}"


def test_what_the_reference_names_exists() -> None:
    for name in LISTED:
        parts = name.split(".")
        if parts[1] == "detectron2" and importlib.util.find_spec("detectron2") is None:
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            owner = importlib.import_module(".".join(parts[:-1]))
            assert hasattr(owner, parts[-1]), name
