"""Without detectron2 its room says so, and nothing else notices."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT = "import sys; sys.modules['detectron2'] = None\n"  # importing it raises ImportError


def run(code: str) -> str:
    command = [sys.executable, "-c", WITHOUT + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_room_tells_how_to_install_detectron2() -> None:
    told = run(
        "try: import bit_backbone.detectron2\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    assert told.startswith("ImportError bit_backbone.detectron2 needs detectron2")
    assert "pip install --no-build-isolation git+https://github.com/" in told


def test_nothing_else_needs_detectron2() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sorted((ROOT / "bit_backbone").rglob("*.py"))
        if "detectron2" not in file.relative_to(ROOT).parts[1:]
        and file.stem not in ("__main__", "__init__")
    ]
    assert "bit_backbone.backbone" in modules
    run("import importlib\n" + "\n".join(f"importlib.import_module({m!r})" for m in modules))
