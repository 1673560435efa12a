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
        (["--isa", "AVX3"], "invalid choice"),
        (["--isa", "AVX2", "--device", "cuda"], "--isa is for the CPU"),
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


def test_ratios_are_to_the_same_type_and_the_table_names_what_is_not_limited(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from benchmarking import report
    from benchmarking.rounds import Result
    from benchmarking.workloads import WORKLOADS

    results = [
        Result("floor-kept", [0.4]),
        Result("floor-kept-bf16", [0.1]),
        Result("optimized", [0.5]),
        Result("optimized-bf16", [0.2]),
        Result("optimized-int8", [0.25]),
        Result("timm", [1.0]),
        Result("timm-bf16", [0.8]),
        Result("timm-onnxruntime", [0.6]),
        Result("onnxruntime", [0.75]),
    ]
    rows = report.table(WORKLOADS["224-runtimes"], results, "AVX512_CORE_BF16").splitlines()
    assert rows[0].startswith("### AVX512_CORE_BF16: R50x1, inference, 1 image of 224 x 224")
    assert rows[2] == (
        "| contender | ms | / lower bound | onnxruntime / it | timm / it | peak MB |"
    )
    assert "| optimized | 500.0 | 1.25 | 1.50 | 2.00 | 0 |" in rows
    assert "| optimized-bf16 | 200.0 | 2.00 | 3.75 | 4.00 | 0 |" in rows
    assert "| optimized-int8 | 250.0 |  | 3.00 | 4.00 | 0 |" in rows
    assert "| timm-onnxruntime (not limited) | 600.0 | 1.50 | 1.25 | 1.67 | 0 |" in rows
    assert "(not limited)" not in report.table(WORKLOADS["224-runtimes"], results)


@pytest.fixture
def flags(monkeypatch, tmp_path):
    """Lets the tools read another processor's features."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from benchmarking import isa

    def pretend(*names: str) -> None:
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor : 0\nflags : fpu {' '.join(names)}\n")
        monkeypatch.setattr(isa, "Path", lambda path: info)

    return pretend


ZEN4 = ("avx2", "avx512bw", "avx512_vnni", "avx512_bf16")


@pytest.mark.parametrize(
    ("features", "isa", "out"),
    [
        (ZEN4, None, set()),
        (ZEN4, "AVX512_CORE_VNNI", {"optimized-bf16", "timm-bf16"}),
        (ZEN4, "AVX512_CORE", {"optimized-bf16", "timm-bf16", "optimized-int8"}),
        (("avx2",), None, {"optimized-bf16", "timm-bf16", "optimized-int8"}),
    ],
)
def test_types_that_the_instructions_do_not_multiply_are_left_out(flags, features, isa, out):
    flags(*features)
    from benchmark import contenders_of
    from benchmarking.workloads import Workload

    names = ("optimized", "optimized-bf16", "timm-bf16", "optimized-int8", "onnxruntime")
    work = Workload("w", contenders=names)
    assert set(contenders_of(work, isa, "cpu")) == set(names) - out
    assert contenders_of(work, None, "cuda") == names


def test_the_instructions_of_a_processor(flags):
    from benchmarking.isa import ISAS, playable

    flags(*ZEN4)
    assert playable() == ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16"]
    flags(*ZEN4, "amx_bf16")
    assert playable() == list(ISAS)
    flags("neon")
    assert playable() == []


PLAY = r"""
import torch
from benchmarking.rounds import Process
work = {"name": "w", "mode": "construct", "variant": "R50x1"}
setting = {"device": "cpu", "dtype": "float32", "isa": "AVX2", "files": ""}
with Process({"contender": "ours", "workload": work, "setting": setting}) as process:
    print(process.answer(), open(f"/proc/{process._process.pid}/environ").read().split("\0"))
"""


@pytest.mark.skipif(
    "avx2" not in Path("/proc/cpuinfo").read_text(), reason="this processor cannot play AVX2"
)
def test_a_process_is_limited_before_it_starts():
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools")])}
    run = [sys.executable, "-c", PLAY]
    done = subprocess.run(run, capture_output=True, text=True, env=env, check=True)
    assert "'facts'" in done.stdout, done.stderr
    assert "'ONEDNN_MAX_CPU_ISA=AVX2'" in done.stdout
    assert "'ATEN_CPU_CAPABILITY=avx2'" in done.stdout


def measured(side: int, isa: str | None, *names: str) -> dict:
    rows = [
        {"contender": name, "median_seconds": side * (i + 1) / 1e6} for i, name in enumerate(names)
    ]
    work = {"size": [side, side], "batch": 1, "variant": "R50x1"}
    return {"workload": work, "isa": isa, "results": rows}


CHART = ("optimized", "timm-onnxruntime", "timm-openvino", "timm", "transformers")


def chart(folder: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/speed_chart.py", str(folder / "measured.json"), *options]
    command += ["--output", str(folder / name)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_chart_of_the_front_page(tmp_path):
    narrow = ("optimized-bf16", "timm-openvino-bf16")
    runs = [measured(side, "AVX512_CORE_BF16", *CHART, *narrow) for side in (224, 800)]
    runs = [measured(96, "AVX2", *CHART), *runs]
    (tmp_path / "measured.json").write_text(json.dumps({"runs": runs}))
    for name in ("one.svg", "two.svg"):
        assert chart(tmp_path, name).returncode == 0
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    for shown in ("bit_backbone", "R50x1, 224 x 224, ms", "800 x 800, ms", ">4<", ">5 bfloat16<"):
        assert shown in text
    assert "96 x 96" not in text
    assert chart(tmp_path, "old.svg", "--isa", "AVX2").returncode == 0
    old = (tmp_path / "old.svg").read_text()
    assert "96 x 96, ms" in old
    assert "bfloat16" not in old


def test_a_chart_needs_every_bar(tmp_path):
    runs = [measured(224, None, *CHART[:-1])]
    (tmp_path / "measured.json").write_text(json.dumps({"runs": runs}))
    done = chart(tmp_path, "none.svg")
    assert done.returncode == 1
    assert "nothing was measured that has all of optimized, timm-onnxruntime" in done.stderr
