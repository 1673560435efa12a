"""Images that are too large for the memory, with the exceptions of real allocators."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import tiny
from photographs import photograph
from PIL import Image

from bit_backbone import BitForImageClassification
from bit_backbone.cli import main
from bit_backbone.detection import DetectorSpec
from bit_backbone.utils.out_of_memory import (
    SharedMemoryError,
    TooLargeError,
    each_that_fits,
    fitting,
    is_out_of_memory,
)

TOO_MANY = 2**60  # bytes: no processor addresses so many


def of(function):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (its type is what is tested)
        function()
    return caught.value


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(TOO_MANY, dtype=torch.uint8),
        lambda: np.empty(TOO_MANY, np.uint8),
        lambda: bytes(TOO_MANY),
    ],
)
def test_every_allocator_is_understood(allocate):
    assert is_out_of_memory(of(allocate))
    with (
        pytest.raises(TooLargeError, match=r"\Athe image does not fit into memory: .+\Z") as caught,
        fitting("the image"),
    ):
        allocate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (RuntimeError("The size of tensor a (2) must match"), False),
        (ValueError("not enough memory of what was said"), False),
    ],
)
def test_what_is_a_lack_of_memory(error, expected):
    assert is_out_of_memory(error) is expected

    def fail():
        with fitting("it"):
            raise error

    assert isinstance(of(fail), TooLargeError) is expected


def test_a_batch_that_does_not_fit_is_computed_one_by_one(caplog):
    batches = []

    def compute(items):
        batches.append(list(items))
        if len(items) > 1 or items[0] > 5:
            raise TooLargeError(f"{items}")
        return [item * item for item in items]

    assert each_that_fits(compute, [2, 9, 3], lambda item, error: str(error)) == [4, "[9]", 9]
    assert batches == [[2, 9, 3], [2], [9], [3]]
    assert [record.getMessage() for record in caplog.records] == [
        "[2, 9, 3]; its images are computed one by one"
    ]


# Runs a command with so many bytes of address space more than what all libraries reserve at first.
LIMITED = """
import io, resource, sys, torch
import bit_backbone.cli.features, bit_backbone.extraction.run, bit_backbone.visualization
import bit_backbone.detection.runs, bit_backbone.visualization.objects
import torchvision.transforms.v2.functional, pyarrow.parquet, rich.progress, rich.table
from bit_backbone import BitBackbone, cli
torch.set_num_threads(1)
pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), io.BytesIO())
with torch.no_grad():
    BitBackbone.from_pretrained(sys.argv[2])(torch.rand(1, 3, 64, 64))
pages = int(open("/proc/self/statm").read().split()[0])
size = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
sys.exit(cli.main(sys.argv[3:]))
"""
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tiny(out_indices=[1]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two small photographs about one whose first convolution takes 1500 MB."""
    folder = tmp_path_factory.mktemp("photos")
    photograph("china@96x64").save(folder / "a.png")
    Image.new("RGB", (6000, 5500), (9, 99, 199)).save(folder / "huge.png")
    photograph("flower@96x64").save(folder / "z.png")
    return folder


def limited(weights, bytes_more, *arguments):
    command = [sys.executable, "-c", LIMITED, str(bytes_more), str(weights), *map(str, arguments)]
    # Arrow's own allocator would reserve a gibibyte more at any moment.
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_extraction_accounts_for_an_image_too_large_for_the_memory(weights, photos, tmp_path):
    arguments = ("extract", photos, "--output", tmp_path, "--weights", weights, "--no-resize",
                 "--out-indices", "1", "--workers", "0", "--device", "cpu")  # fmt: skip
    done = limited(weights, 1300 * MEBIBYTE, *arguments)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == f"{tmp_path}: 2 of 3 images, 1 failed (failures.jsonl)\n"
    (failure,) = map(json.loads, (tmp_path / "failures.jsonl").read_text().splitlines())
    assert failure["key"] == "huge%2Epng"
    assert "5500 x 6000 pixels does not fit into memory: " in failure["reason"]


def test_features_skip_an_image_too_large_for_the_memory(weights, photos, tmp_path):
    arguments = ("features", *sorted(photos.iterdir()), "--weights", weights, "--output", tmp_path)
    done = limited(weights, 1300 * MEBIBYTE, *arguments, "--out-indices", "1")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert f"skipped {photos}/huge.png: the photograph does not fit into memory: " in done.stderr
    assert done.stdout.splitlines()[-1] == f"2 of 3 photographs, 1 failed -> {tmp_path}"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}{ending}" for name in "az" for ending in (".safetensors", "_stage1.png")
    }


def test_a_command_that_does_not_fit_ends_with_one_line(monkeypatch, tmp_path, photos, capsys):
    monkeypatch.setattr("bit_backbone.cli.features.backbone_of", lambda args: torch.empty(2**60))
    assert main(["features", str(photos / "a.png"), "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bit-backbone: error: the command does not fit into memory: ")


def test_classification_resumes_behind_what_does_not_fit(photos, tmp_path, monkeypatch, capsys):
    BitForImageClassification(tiny().config, num_labels=3).save_pretrained(tmp_path)
    forward, sizes = BitForImageClassification.forward, []

    def limited_forward(self, images, **options):
        sizes.append(len(images))
        if len(images) > 1 or images.std((2, 3)).max() < 1e-3:  # the huge one has one colour
            torch.empty(TOO_MANY)
        return forward(self, images, **options)

    monkeypatch.setattr(BitForImageClassification, "forward", limited_forward)
    arguments = [*map(str, sorted(photos.iterdir())), "--weights", str(tmp_path), "--json"]
    assert main(["classify", *arguments, "--preset", "official", "--device", "cpu"]) == 3
    told = capsys.readouterr()
    rows = {Path(row["image"]).stem: row for row in map(json.loads, told.out.splitlines())}
    assert sizes == [3, 1, 1, 1]
    assert "a batch of 1 x [3, 480, 480] does not fit" in rows.pop("huge")["error"]
    assert [len(row["predictions"]) for row in rows.values()] == [3, 3]
    assert "2 of 3 images classified, 1 failed" in told.err


def test_detection_skips_what_does_not_fit(photos, tmp_path, monkeypatch, capsys):
    class Detector:
        def __call__(self, images):
            if images[0].shape[1] > 1000:
                torch.empty(TOO_MANY)
            nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
            return [nothing | {"scores": torch.zeros(0)}]

    spec = DetectorSpec("fasterrcnn_bit_fpn", ("cat",))
    runs = "bit_backbone.detection.runs"
    monkeypatch.setattr(f"{runs}.load_detector", lambda *_: (Detector(), spec))
    monkeypatch.setattr(f"{runs}.bit_depth_of", lambda *_: "auto")
    # the stand-in has no BiT to optimize
    monkeypatch.setattr("bit_backbone.inference.optimize_in_place", lambda model, **_: model)
    names = map(str, sorted(photos.iterdir()))
    assert main(["detect", *names, "--weights", "run", "--output", str(tmp_path)]) == 3
    told = capsys.readouterr()
    assert f"skipped {photos}/huge.png: the image does not fit into memory: " in told.err
    assert "2 of 3 images, 1 failed" in told.out
    assert {path.name for path in tmp_path.iterdir()} == {
        "a_detections.png",
        "z_detections.png",
    }


class Bus(torch.utils.data.Dataset):
    """Ends the worker that reads it as the kernel ends one that finds /dev/shm full."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGBUS)


def test_a_worker_without_shared_memory_is_reported_in_a_line():
    loader = torch.utils.data.DataLoader(Bus(), num_workers=1)
    told = r"/dev/shm\): .*--shm-size=8g, or pass workers=0"
    with pytest.raises(SharedMemoryError, match=told), fitting("the command"):
        list(loader)
