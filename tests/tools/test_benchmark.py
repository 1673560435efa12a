"""tools/benchmark.py, run as its users run it, at sizes where nothing takes long."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/benchmark.py", *arguments]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)


@pytest.mark.parametrize(
    ("workload", "contenders", "rounds"),
    [
        pytest.param(
            "800-stage12",
            ["floor", "floor-kept", "optimized", "optimized-unkept"],
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param("train", ["floor", "ours", "recompute-kept"], 1, marks=pytest.mark.slow),
        pytest.param(
            "224-runtimes",
            ["optimized", "onnxruntime", "openvino", "timm-onnxruntime", "timm-openvino"],
            1,
            marks=pytest.mark.slow,
        ),
        ("construct", ["ours"], 1),
    ],
)
def test_workload(tmp_path, workload, contenders, rounds):
    written = tmp_path / "benchmark.json"
    tables = tmp_path / "benchmark.md"
    options = ["--image-size", "40x56", "--rounds", str(rounds), "--workloads", workload]
    options += ["--contenders", *contenders, "--json", str(written), "--markdown", str(tables)]
    done = benchmark(*options)
    assert done.returncode == 0, done.stderr
    record = json.loads(written.read_text())
    assert record["environment"]["torch"]
    (run,) = record["runs"]
    assert run["workload"]["size"] == [40, 56]
    rows = {row["contender"]: row for row in run["results"]}
    assert set(contenders) <= set(rows)
    for row in rows.values():
        assert row["problem"] is None
        assert len(row["seconds"]) == rounds
        assert row["median_seconds"] > 0
    for name in contenders:
        assert f"| {name} |" in done.stdout
    assert done.stdout.strip().endswith(tables.read_text().strip().splitlines()[-1])
    assert ("Roofline" in done.stdout) == (workload == "800-stage12")


def test_a_contender_that_fails_does_not_stop_the_others(tmp_path):
    options = ["--workloads", "train", "--contenders", "optimized", "ours", "--rounds", "1"]
    done = benchmark(*options, "--image-size", "40x56")
    assert done.returncode == 0, done.stderr
    assert "| optimized | ValueError: a model optimized for inference cannot" in done.stdout
    assert "| ours |" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contenders", "floor", "resnet"], "contenders are floor, .*got resnet"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--workloads", "900"], "invalid choice"),
        (["--image-size", "64"], "invalid image_size"),
    ],
)
def test_wrong_options(options, message):
    done = benchmark(*options)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr


def test_floors_and_ratios(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from benchmarking import report
    from benchmarking.rounds import Result
    from benchmarking.workloads import WORKLOADS

    results = [
        Result("floor", [0.5, 0.4, 0.6], facts={"unavoidable_bytes": 1e9}),
        Result("floor-kept", [0.4], facts={"unavoidable_bytes": 1e9}),
        Result("optimized", [0.5], peak_bytes=7_000_000),
        Result("timm", [1.0]),
        Result("transformers", problem="not installed (No module named 'transformers')"),
        Result("bandwidth", [0.1], facts={"moved_bytes": 2e9}),
    ]
    text = report.table(WORKLOADS["800"], results)
    assert "| optimized | 500.0 | 1.25 | 2.00 | 7 |" in text  # of its own lower bound, 0.4
    assert "| timm | 1000.0 | 2.00 | 1.00 | 0 |" in text
    assert "| transformers | not installed (No module named 'transformers') |" in text
    assert "Roofline at 20.0 GB/s: 550 ms over floor, 450 ms over floor-kept." in text


def test_the_chart_of_the_front_page(tmp_path):
    names = ("optimized", "timm-onnxruntime", "timm-openvino", "timm", "transformers")
    runs = [
        {
            "workload": {"size": [side, side]},
            "results": [
                {"contender": name, "median_seconds": side * (i + 1) / 1e6}
                for i, name in enumerate(names)
            ],
        }
        for side in (224, 800)
    ]
    (tmp_path / "measured.json").write_text(json.dumps({"runs": runs}))
    command = [sys.executable, "tools/speed_chart.py", str(tmp_path / "measured.json")]
    images = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for image in images:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([*command, "--output", image], cwd=ROOT, env=env, check=True)
    text = images[0].read_text()
    assert text == images[1].read_text()
    for shown in ("bit_backbone", "224 x 224, ms", "800 x 800, ms", ">4<", ">1<"):
        assert shown in text
