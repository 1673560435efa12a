"""Test the supported combinations of Python, torch and what may be missing; print what was seen.

    python tools/support_matrix.py [--rows py3.11-oldest plain ...] [--tests fast]
                                   [--output docs/support.md]

Each row is an environment of its own, made for it and removed after it: about 6 GB, one at a time,
and no row needs another. A row that fails does not stop the rest, but the tool then exits with 1. A
row that cannot be tested here (no such Python, no detectron2) is "untested" and says why. Logs and
results are kept in build/matrix/, so rows that ran on other days stay in the table; --output writes
the table between the two markers of a document. For the row with detectron2, DETECTRON2 has to hold
what pip shall install: a checkout, or git+https://github.com/facebookresearch/detectron2.git.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from bit_backbone.utils.files import atomic_path

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "build" / "matrix"
PYTHONS = ("3.11", "3.12", "3.13")
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"
STEP_LIMIT = 2 * 3600  # seconds: a row that hangs must not keep the others from running
RUNNER = ("pytest>=8.2", "pytest-xdist>=3.6")
SHOWN = ("torch", "torchvision")
# What the rows run. "plain" needs nothing but `pip install .`, and no file of "core" takes minutes.
TESTS = {
    "fast": (),
    "core": (
        *("tests/checkpoints", "tests/hosts", "tests/kernels", "tests/peers", "tests/config"),
        *("tests/network", "tests/inference/test_inference.py", "tests/preprocessing"),
        *("tests/detection/test_training.py", "tests/extraction/test_extraction_run.py"),
        *("tests/test_backbone.py", "tests/test_heads.py", "tests/test_imports.py"),
    ),
    "plain": (
        *("tests/checkpoints", "tests/hosts", "tests/kernels", "tests/config", "tests/network"),
        *("tests/inference/test_inference.py", "tests/cli/test_info.py"),
        *("tests/test_backbone.py", "tests/test_heads.py", "tests/test_imports.py"),
    ),
}
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Row:
    """One environment: its Python, which requirements are held at their lower bound, what is in."""

    python: str
    oldest: tuple[str, ...] = ()
    extra: str = "test"
    tests: str = "core"
    detectron2: bool = False

    @property
    def beside(self) -> str:
        """Say what is installed beside the package and its requirements."""
        if self.detectron2:
            return "detectron2, everything the tests use"
        return "everything the tests use" if self.extra else "none"


@dataclass
class Seen:
    """What became of a row."""

    outcome: str  # passed, failed or untested
    detail: str
    tests: str
    versions: dict[str, str] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())


class UntestableError(Exception):
    """This machine lacks what the row needs; the message says what."""


class RowError(Exception):
    """The row could not be installed, or not be tested to the end."""


def requirements() -> dict[str, str]:
    """Return the package's requirements by name, as setup.py has them."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"install_requires=\[(.*?)\]", text, re.DOTALL)
    return {re.match(r"[\w-]+", line)[0]: line for line in re.findall(r'"(.+)"', block)}


def rows() -> dict[str, Row]:
    """Return every row by its name."""
    found = {}
    for python in PYTHONS:
        found[f"py{python}-oldest"] = Row(python, oldest=SHOWN)
        found[f"py{python}-newest"] = Row(python)
    first = PYTHONS[0]
    found["plain-oldest"] = Row(first, oldest=tuple(requirements()), extra="", tests="plain")
    found["plain-newest"] = Row(first, extra="", tests="plain")
    found["detectron2"] = Row(first, detectron2=True)
    return found


def main() -> int:
    """Run the rows, show the table and return the exit status."""
    args = build_parser().parse_args()
    RECORDS.mkdir(parents=True, exist_ok=True)
    names = args.rows or list(rows())
    for position, name in enumerate(names, 1):
        console.print(f"[{position}/{len(names)}] {name}", style="bold", markup=False)
        seen = try_row(name, args.tests or rows()[name].tests)
        record(name).write_text(json.dumps(asdict(seen), indent=1))
        console.print(f"  {seen.outcome}: {seen.detail}", markup=False)
    table = markdown(read_records())
    print(table)
    write(table, args.output)
    return int(any(json.loads(record(name).read_text())["outcome"] == "failed" for name in names))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=rows(), metavar="ROW", help=", ".join(rows()))
    parser.add_argument("--tests", choices=TESTS, help="what every row runs; else each its own")
    parser.add_argument("--output", type=Path, default=RECORDS / "table.md")
    return parser


def try_row(name: str, tests: str) -> Seen:
    """Make a row's environment, test in it and remove it; whatever goes wrong is in the result."""
    row, log, place = rows()[name], RECORDS / f"{name}.log", RECORDS / f"{name}-env"
    log.unlink(missing_ok=True)
    seen = Seen("untested", "", tests)
    try:
        packages = wanted(row)
        interpreter = find_python(row.python)
        console.print(f"  {row.python} at {interpreter}, log in {log.relative_to(ROOT)}")
        python = make_environment(interpreter, place, packages, row, log)
        seen.versions = versions(python)
        seen.outcome, seen.detail = test(python, tests, log)
    except UntestableError as reason:
        seen.detail = str(reason)
    except RowError as reason:
        seen.outcome, seen.detail = "failed", str(reason)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return seen


def wanted(row: Row) -> list[str]:
    """Return what pip shall install for a row, its own package first."""
    pins = [requirements()[name].replace(">=", "==") for name in row.oldest]
    return [f".[{row.extra}]" if row.extra else ".", *pins, *RUNNER]


def find_python(version: str) -> str:
    """Return the path of an interpreter that runs, not only of a name that pyenv knows."""
    found = shutil.which(f"python{version}")
    if found is None:
        raise UntestableError(f"there is no python{version} here")
    done = subprocess.run([found, "--version"], capture_output=True, text=True)
    if done.returncode or f"Python {version}." not in done.stdout:
        raise UntestableError(f"{found} is no Python {version} that runs")
    return found


def make_environment(
    interpreter: str, place: Path, packages: list[str], row: Row, log: Path
) -> Path:
    """Install a row and return its interpreter."""
    detectron2 = os.environ.get("DETECTRON2")
    if row.detectron2 and not detectron2:
        raise UntestableError("DETECTRON2 does not say where to install it from")
    shutil.rmtree(place, ignore_errors=True)
    # What setuptools left there would be packed again, modules that are gone included.
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    python = place / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--progress-bar", "off")
    step("making the environment", [interpreter, "-m", "venv", place], log)
    step(f"installing {' '.join(packages)}", [*pip, *packages], log)
    if row.detectron2:
        # detectron2 0.6 imports pkg_resources, which later ones are without.
        step("installing what builds detectron2", [*pip, "setuptools<81", "wheel", "ninja"], log)
        step("compiling detectron2", [*pip, "--no-build-isolation", detectron2], log)
    return python


def step(title: str, command: list[object], log: Path, expected: tuple[int, ...] = (0,)) -> None:
    """Run a command away from this process's Python path, and keep in the log what it says."""
    console.print(f"  {title}", markup=False)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                [str(part) for part in command],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=STEP_LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise RowError(f"{title}: not done after {STEP_LIMIT} s") from None
    if done.returncode not in expected:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise RowError(f"{title}: exit status {done.returncode}: {last}")


def versions(python: Path) -> dict[str, str]:
    """Return the versions of Python, torch and torchvision in an environment."""
    code = (
        "import json, platform, sys; from importlib.metadata import version\n"
        "found = {name: version(name) for name in sys.argv[1:]}\n"
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    done = subprocess.run([python, "-c", code, *SHOWN], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test(python: Path, tests: str, log: Path) -> tuple[str, str]:
    """Run tests in an environment; return the outcome and the counts."""
    report = log.with_suffix(".xml")
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-m", "not slow", "-n", "auto", "--maxprocesses", "4"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", *TESTS[tests]]
    start = time.monotonic()
    step(f"testing: {tests}", command, log, expected=(0, 1))
    console.print(f"  {time.monotonic() - start:.0f} s of tests")
    return counts(report)


def counts(report: Path) -> tuple[str, str]:
    """Return the outcome and the counts that a JUnit report holds."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, failures, errors, skipped = (
        int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")
    )
    broken = failures + errors
    done = f"{total - broken - skipped} passed, {broken} failed, {skipped} skipped"
    return ("failed" if broken or total == skipped else "passed"), done


def record(name: str) -> Path:
    """Return where the result of a row is kept."""
    return RECORDS / f"{name}.json"


def read_records() -> dict[str, Seen]:
    """Return what was seen of each row, now or before."""
    return {
        name: Seen(**json.loads(record(name).read_text()))
        if record(name).is_file()
        else Seen("untested", "this row was not run", row.tests, date="")
        for name, row in rows().items()
    }


def markdown(seen: dict[str, Seen]) -> str:
    """Return the table of all rows."""
    lines = [
        "| row | Python | torch | torchvision | other packages | tests | result | date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows().items():
        one = seen[name]
        cells = [one.versions.get("python", row.python)]
        cells += [one.versions.get(package, "") for package in SHOWN]
        cells += [row.beside, one.tests, f"{one.outcome}: {one.detail}", one.date]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(table: str, output: Path) -> None:
    """Write the table into a document between its markers, or as a file of its own."""
    before, begin, rest = (output.read_text() if output.is_file() else "").partition(BEGIN)
    after = rest.partition(END)[2]
    if output.is_file() and before and not begin:
        raise SystemExit(f"{output} has no line {BEGIN}: the table belongs between two markers.")
    with atomic_path(output) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{table}\n{END}{after or chr(10)}")


if __name__ == "__main__":
    sys.exit(main())
