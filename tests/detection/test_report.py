"""The findings of an evaluation, and the page that reports them."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import opened
from rectangles import SMALL, write_coco

from bit_backbone import cli
from bit_backbone.datasets import CocoFolder, SemanticFolder
from bit_backbone.detection import DetectorSpec, findings
from bit_backbone.detection.findings import confusion_of_boxes, findings_of_detector
from bit_backbone.visualization import charts

LABELS = {7: 1, 2: 2}


def box(x: float, category: int = 7, score: float = 1.0, crowd: int = 0, width: float = 10) -> dict:
    bbox = [x, 0.0, width, 10.0]
    return {"bbox": bbox, "category_id": category, "score": score, "iscrowd": crowd}


@pytest.mark.parametrize(
    ("found", "true", "cells"),
    [
        ([box(0)], [box(0)], {(1, 1): 1}),
        ([box(3)], [box(0)], {(1, 1): 1}),  # IoU 7/13
        ([box(4)], [box(0)], {(1, 0): 1, (0, 1): 1}),  # IoU 6/14
        ([box(0, 2)], [box(0)], {(1, 2): 1}),
        ([], [box(0), box(20, 2)], {(1, 0): 1, (2, 0): 1}),
        ([box(0), box(0, 2, 0.5)], [box(0)], {(1, 1): 1, (0, 2): 1}),  # the surest first
        ([box(0, 2, 0.9), box(1, 7, 0.8)], [box(0), box(2)], {(1, 2): 1, (1, 1): 1}),
        ([box(5)], [box(0, crowd=1, width=40)], {}),  # in a crowd
        ([box(37)], [box(0, crowd=1, width=40)], {(0, 1): 1}),  # beside it
        ([], [], {}),
    ],
)
def test_boxes_are_taken_for_what_they_overlap(found, true, cells: dict) -> None:
    counts = confusion_of_boxes(found, true, LABELS, 3)
    assert {tuple(map(int, at)): int(counts[tuple(at)]) for at in np.argwhere(counts)} == cells


@pytest.fixture
def data(tmp_path: Path) -> CocoFolder:
    return CocoFolder(write_coco(tmp_path / "data", 4), masks=True)


def perfect(data: CocoFolder) -> list[dict]:
    from pycocotools.mask import decode

    from bit_backbone.detection.results import run_lengths

    sizes = {image["id"]: (image["height"], image["width"]) for image in data.document()["images"]}
    records = []
    for truth in data.document()["annotations"]:
        record = {name: truth[name] for name in ("image_id", "category_id", "bbox")}
        height, width = sizes[truth["image_id"]]
        segmentation = truth["segmentation"]
        if isinstance(segmentation, list):
            from pycocotools.mask import frPyObjects, merge

            segmentation = merge(frPyObjects(segmentation, height, width))
        mask = torch.from_numpy(decode(segmentation)) if "counts" in segmentation else None
        assert mask is not None
        records.append(record | {"score": 0.9, "segmentation": run_lengths(mask)})
    return records


def test_a_perfect_detector(data: CocoFolder) -> None:
    told = findings_of_detector(data, perfect(data))
    assert told.names == ["block", "bar", "background"]
    assert np.array_equal(told.confusion, np.diag([4, 4, 0]))
    assert told.quality == [1.0] * 4
    for values in told.classes.values():
        assert values["box AP"] == values["box AP50"] == pytest.approx(1, abs=1e-6)
        assert values["mask AP50"] == pytest.approx(1, abs=1e-6)
    assert set(told.curves) == {"block", "bar"}
    assert all(min(precision) == pytest.approx(1) for _, precision in told.curves.values())


def test_what_is_missed_in_one_image_lowers_that_one(data: CocoFolder) -> None:
    records = [r for r in perfect(data) if r["image_id"] != 2 or r["category_id"] == 7]
    told = findings_of_detector(data, records)
    assert told.quality == [1.0, pytest.approx(2 / 3), 1.0, 1.0]
    assert told.confusion[0].tolist() == [3, 0, 1]  # a block taken for background
    assert told.classes["block"]["box AP50"] < told.classes["bar"]["box AP50"]


def test_a_class_that_is_not_annotated_has_no_precision(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "data", 2)
    document = json.loads((folder / "instances.json").read_text())
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] == 7]
    (folder / "instances.json").write_text(json.dumps(document))
    told = findings_of_detector(CocoFolder(folder), [])
    assert told.classes["block"] == {"box AP": -1.0, "box AP50": -1.0}
    assert told.classes["bar"] == {"box AP": 0.0, "box AP50": 0.0}
    assert set(told.curves) == {"bar"}


def test_a_segmenter(data: CocoFolder) -> None:
    maps = SemanticFolder(data.file.parent)
    model = DetectorSpec("fcn_bit", maps.categories, {"variant": SMALL["variant"]}).build().eval()
    seen: list[int] = []
    told = findings.findings_of_segmenter(model, maps, seen.append)
    assert sum(seen) == len(maps)
    assert told.names == ["background", "block", "bar"]
    assert told.confusion.sum() == sum((maps[i][1]["semantic"] != 255).sum() for i in range(4))
    assert set(told.classes) == set(told.names)
    assert not told.curves
    assert told.picture(0).size[0] > 320


class Page(HTMLParser):
    """Collects headings, sources of images and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings, self.sources, self.text, self.tag = [], [], "", ""
        self.attributes: list[tuple] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        self.attributes += attrs
        if tag == "img":
            self.sources.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.text += f"{data}\n"
        if self.tag == "h2":
            self.headings.append(data)
            self.tag = ""


def train(tmp_path: Path, *extra: str, model: str = "fasterrcnn_bit_tiny_fpn") -> Path:
    data = tmp_path / "coco"
    if not data.exists():
        write_coco(data, 8)
    given = ["--train", data, "--test", data, "--output", tmp_path / "run", "--model", model]
    options = ["--steps", 3, "--batch-size", 2, "--warmup-steps", 1, "--pictures", 0, "--device",
              "cpu", *extra]  # fmt: skip
    assert cli.main(["train", *map(str, [*given, *options])]) == 0
    return tmp_path / "run"


def test_a_run_ends_with_a_page_that_needs_nothing_else(tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    run = train(tmp_path, "--eval-every", "2")
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    page = Page((run / "report.html").read_text())
    assert page.headings == [
        "Result", "Settings", "Problems", "Training", "Classes", "Precision and recall",
        "Confusion", "Worst pictures", "Best pictures",
    ]  # fmt: skip
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not [value for _, value in page.attributes if value and "//" in value[:12]]
    assert sum(source.startswith("data:image/svg+xml") for source in page.sources) == 4
    assert sum(source.startswith("data:image/jpeg") for source in page.sources) == 12
    assert "None are recorded." in page.text
    assert {"block", "bar", "base_lr", "box_AP50"} <= set(page.text.splitlines())


def test_a_browser_shows_the_page_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = train(tmp_path)
    with opened(run / "report.html") as visit:
        assert visit.page.title() == "run"
        assert {"Training", "Precision and recall", "Confusion"} <= set(visit.texts("h2"))
        assert visit.texts("table:not(.settings) tr th:first-child") == ["", "block", "bar"]
        charts, pictures = visit.sizes("img[src*=svg]"), visit.sizes("img[src*=jpeg]")
        assert len(charts) == 4
        assert min(min(size) for size in charts) > 100
        assert len(pictures) == 12
        assert min(min(size) for size in pictures) >= 48  # as large as the images
        shown = visit.page.locator("img").evaluate_all("x => x.map(i => i.clientWidth)")
        assert min(shown) > 0
        width = visit.page.evaluate("[document.body.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], "the page does not scroll sideways"
    assert not visit.errors
    assert not visit.requests


def test_the_browser_sees_what_a_page_lacks(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    image = '<img src="data:image/png;base64,AAAA"><img src="https://example.org/a.png">'
    file.write_text(f"<!doctype html><meta charset=utf-8>{image}<script>missing()</script>")
    with opened(file) as visit:
        assert visit.sizes("img") == [(0, 0), (0, 0)]
    assert visit.requests == ["https://example.org/a.png"]
    assert any("missing is not defined" in error for error in visit.errors)


def test_problems_are_escaped_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bit_backbone.detection.html_report import write_report

    data = CocoFolder(write_coco(tmp_path / "data", 2))
    lines = [json.dumps({"file": f"<b>{i}.png"}) for i in range(102)]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    told = findings_of_detector(data, [])
    page = Page(write_report(tmp_path, {"box_AP": 0.0}, told, ["1.png", "<2>.png"]).read_text())
    assert "102, of which the first 100 are:" in page.text
    assert "<b>99.png" in page.text
    assert "<b>100.png" not in page.text
    assert "<2>.png: 0.00" in page.text
    assert "Training" in page.headings or not (tmp_path / "log.jsonl").exists()


def test_a_segmenters_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "bit.json").write_text(json.dumps(SMALL["variant"]))
    run = train(tmp_path, "--variant", str(tmp_path / "bit.json"), model="fcn_bit")
    page = Page((run / "report.html").read_text())
    assert "Precision and recall" not in page.headings
    assert {"IoU", "background", "mIoU"} <= set(page.text.splitlines())


def test_a_page_of_another_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = train(tmp_path)
    (run / "report.html").unlink()
    test = str(write_coco(tmp_path / "other", 3, seed=5))
    command = ["evaluate", str(run), "--test", test, "--pictures", "0", "--device", "cpu"]
    assert cli.main(command) == 0
    assert not (run / "report.html").exists()
    assert cli.main([*command, "--report"]) == 0
    page = Page((run / "report.html").read_text())
    assert sum(source.startswith("data:image/jpeg") for source in page.sources) == 6


def test_without_matplotlib_a_run_says_so_in_a_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    run = train(tmp_path)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "report.html" in x]
    assert line.startswith("no report.html: a report needs matplotlib, which cannot be imported")
    assert 'pip install "bit-backbone[demo]"' in line
    assert not (run / "report.html").exists()
    assert {r["image_id"] for r in json.loads((run / "detections.json").read_text())} <= set(
        range(1, 9)
    )


def test_a_running_mean() -> None:
    values = list(range(100))
    mean = charts._running_mean(values)
    assert len(mean) == 100
    assert mean[:3].tolist() == [0.0, 0.5, 1.5]
    assert charts._running_mean([3.0]).tolist() == [3.0]


def test_charts_are_the_same_every_time() -> None:
    pytest.importorskip("matplotlib")
    curves = {"a": ([0, 1, 2], [1.0, 0.5, 0.2]), "one point": ([1], [0.5])}
    assert charts.line_chart(curves, "x", "y") == charts.line_chart(curves, "x", "y")
    counts = np.arange(9).reshape(3, 3) * 10_000
    assert charts.matrix_chart(counts, ["a", "b", "c"]).startswith("data:image/svg+xml;base64,")
