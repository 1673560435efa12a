"""The rooms of the package: imports point down, and the root holds the models alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bit_backbone"
ROOT_FILES = ["__init__.py", "__main__.py", "backbone.py", "heads.py", "outputs.py"]
# Highest first. Rooms on one line do not import each other in a circle.
LEVELS = (
    ("cli", "__main__"),
    ("app",),
    ("detection", "finetune", "extraction", "export"),
    ("training",),
    ("detectron2", "torchvision"),
    ("datasets",),
    ("preprocessing", "profiling", "visualization"),
    ("backbone", "heads", "outputs"),
    ("inference",),
    ("checkpoints",),
    ("network",),
    ("config",),
    ("kernels",),
    ("utils",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def rooms_imported(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, room) of every import, those in functions too; not those for type checkers."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "bit_backbone" and rest.partition(".")[0] in LEVEL:
                yield node.lineno, rest.partition(".")[0]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def arrows() -> Iterator[tuple[str, str, str]]:
    """Yields (room, room that it imports, where)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        for line, target in rooms_imported(path.read_text(encoding="utf-8")):
            if target != room and room != "__init__":
                yield room, target, f"{path.relative_to(PACKAGE)}:{line}"


def test_imports_point_down():
    assert [a for a in arrows() if LEVEL[a[1]] < LEVEL[a[0]]] == []


def test_no_two_rooms_import_each_other():
    found = {(room, target) for room, target, _ in arrows()}
    for room, target in found:
        assert (target, room) not in found
    # three or more on one line would need a longer search: so far no line has such arrows
    level_arrows = {pair for pair in found if LEVEL[pair[0]] == LEVEL[pair[1]]}
    assert len({room for room, _ in level_arrows} & {target for _, target in level_arrows}) == 0


def test_every_folder_is_a_room_of_the_list():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(LEVEL)


def test_the_root_holds_the_models_alone():
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == ROOT_FILES


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda p: p.parent.name)
def test_a_room_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert re.match(r"[A-Z].+[.:]", docstring.splitlines()[0])


@pytest.mark.parametrize(
    "source",
    [
        "from bit_backbone.cli import main",
        "from bit_backbone import cli",
        "import bit_backbone.cli.options",
        "def f():\n    from bit_backbone.cli import main",
        "try:\n    import bit_backbone.cli\nexcept ImportError:\n    pass",
    ],
)
def test_every_way_to_import_is_found(source):
    assert [room for _, room in rooms_imported(source)] == ["cli"]


def test_imports_for_type_checkers_are_left_out():
    source = "if TYPE_CHECKING:\n    from bit_backbone.cli import main"
    assert list(rooms_imported(source)) == []


# Questions about who runs or reads the code; kernels/gate.py asks them for everybody.
QUESTIONS = re.compile(
    r"is_scripting|is_compiling|is_exporting|is_tracing|torch\._C|\._version|_has_any_global_hook"
    r"|forward_ad|functorch|FakeTensor\b|__class__|custom_op"
)


@pytest.mark.parametrize("path", sorted((PACKAGE / "network").glob("*.py")), ids=lambda p: p.stem)
def test_the_network_asks_nobody_who_runs_it(path):
    assert QUESTIONS.findall(path.read_text(encoding="utf-8")) == []


def test_the_gate_asks_each_question_once():
    gate = (PACKAGE / "kernels" / "gate.py").read_text(encoding="utf-8")
    for question in ("is_compiling()", "is_exporting()", "is_tracing()", "peek_interpreter_stack"):
        assert gate.count(question) == 1
        for path in PACKAGE.glob("[kin]*/*.py"):  # inference, kernels, network
            assert path.name == "gate.py" or question not in path.read_text(encoding="utf-8"), path


def test_the_network_is_short():
    lines = 0
    for path in (PACKAGE / "network").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = {
            line
            for node in ast.walk(ast.parse(source))
            if isinstance(node, documented) and ast.get_docstring(node)
            for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
        }
        numbered = enumerate(source.splitlines(), 1)
        lines += sum(bool(line.strip()) and number not in docstrings for number, line in numbered)
    assert lines < 450
