"""The package as a user gets it: the sdist, the wheel, the command and the lazy exports."""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import bit_backbone

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bit_backbone"
# What a build reads, and the folders that must stay out of the wheel.
SOURCES = (
    *("setup.py", "pyproject.toml", "MANIFEST.in", "Makefile", "mkdocs.yml", "LICENSE"),
    *("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md"),
)
FOLDERS = ("bit_backbone", "configs", "docs", "examples", "tests", "tools")
PROBE = "configs/probe/tiny.yaml"  # a config of the test's own, whatever configs/ holds
# A room that imports its host can only be imported beside it.
HOSTS = {"bit_backbone.detectron2": "detectron2"}


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    """Run a command away from the checkout, with `path` first on Python's; return its stdout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def relative_files(folder: Path, pattern: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from that sdist."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
    (source / PROBE).parent.mkdir(parents=True)
    (source / PROBE).write_text("VERSION: 2\n")
    run(sys.executable, "-m", "build", "--no-isolation", ".", cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed outside the checkout."""
    target = tmp_path_factory.mktemp("installed")
    install = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    run(sys.executable, *install, cwd=target)
    return target


def test_the_wheel_holds_every_module_the_marker_and_the_configs(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"bit_backbone/{name}" for name in relative_files(ROOT / "configs", "*")}
    wanted = relative_files(PACKAGE, "*.py") | configs
    for ending in ("css", "html", "js"):
        wanted |= relative_files(PACKAGE, f"*.{ending}")
    assert wanted | {"bit_backbone/py.typed", f"bit_backbone/{PROBE}"} <= held


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"bit_backbone", f"bit_backbone-{bit_backbone.__version__}.dist-info"}


def test_the_sdist_holds_all_that_a_checkout_does(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    folders = (relative_files(ROOT / name, "*.*") for name in FOLDERS)
    assert {*SOURCES, PROBE}.union(*folders) <= held


def test_every_subpackage_imports_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    packages = [
        ".".join(init.parent.relative_to(ROOT).parts) for init in PACKAGE.rglob("__init__.py")
    ]
    names = [n for n in packages if n not in HOSTS or importlib.util.find_spec(HOSTS[n])]
    code = (
        "import importlib, sys; [print(importlib.import_module(n).__file__) for n in sys.argv[1:]]"
    )
    found = run(sys.executable, "-c", code, *names, cwd=tmp_path, path=installed).split()
    assert len(found) == len(names) > 0
    assert all(Path(file).is_relative_to(installed) for file in found), found


def test_the_installed_package_finds_its_configs(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    name = "COCO-InstanceSegmentation/mask_rcnn_BiT_R50x1_FPN_1x"
    code = (
        "from bit_backbone.detectron2 import get_config_file as find\n"
        "from detectron2.config import LazyConfig\n"
        f"print(find('{name}.yaml'), LazyConfig.load(find('{name}.py')).train.init_checkpoint)"
    )
    found = run(sys.executable, "-W", "ignore", "-c", code, cwd=tmp_path, path=installed).split()
    assert found == [str(installed / f"bit_backbone/configs/{name}.yaml"), "bit://BiT-M-R50x1"]


def test_the_installed_command_tells_its_version(installed: Path, tmp_path: Path) -> None:
    told = run(installed / "bin" / "bit-backbone", "--version", cwd=tmp_path, path=installed)
    assert told == f"bit-backbone {bit_backbone.__version__}\n"


def test_every_extra_that_a_message_names_exists(wheel: Path) -> None:
    name = f"bit_backbone-{bit_backbone.__version__}.dist-info/METADATA"
    metadata = zipfile.ZipFile(wheel).read(name).decode()
    extras = set(re.findall(r"^Provides-Extra: (\w+)$", metadata, re.MULTILINE))
    code = "\n".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
    named = re.findall(r'bit-backbone\[(\w+)\]|require\([^,()]+, "(\w+)"', code)
    assert {extra for pair in named for extra in pair if extra} <= extras
    assert named


def test_setup_py_imports_neither_torch_nor_the_package(tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "sys.modules.update(torch=None, bit_backbone=None)  # importing either raises\n"
        "sys.argv = ['setup.py', '--version']\n"
        "runpy.run_path('setup.py', run_name='__main__')\n"
    )
    assert run(sys.executable, "-c", code, cwd=ROOT).split()[-1] == bit_backbone.__version__


@pytest.mark.parametrize(
    "code",
    [
        "import bit_backbone; dir(bit_backbone)",
        "import bit_backbone.cli; bit_backbone.cli.build_parser().format_help()",
    ],
)
def test_torch_is_not_imported_before_it_is_used(code: str) -> None:
    code += "; import sys; print({'torch', 'torchvision', 'transformers'} & set(sys.modules))"
    assert run(sys.executable, "-c", code, cwd=ROOT) == "set()\n"


def test_every_exported_name_is_the_one_of_its_module() -> None:
    assert set(bit_backbone.__all__) == {*bit_backbone._HOME, "__version__"}
    assert set(bit_backbone.__all__) <= set(dir(bit_backbone))
    for name, module in bit_backbone._HOME.items():
        assert getattr(bit_backbone, name) is getattr(importlib.import_module(module), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'bit_backbone' has no attribute 'BitBackbones'"):
        bit_backbone.BitBackbones  # noqa: B018
