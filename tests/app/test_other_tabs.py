"""The Detect and Classify tabs, in a real browser."""

import csv
import json
import re

import pytest
import torch
from browser import visit_of
from damaged_images import truncated
from photographs import photograph
from rectangles import SMALL
from served_pages import serving

from bit_backbone.app.classify_tab import classify
from bit_backbone.app.networks import Networks
from bit_backbone.detection import DetectorSpec
from bit_backbone.detection.runs import save_spec
from bit_backbone.training.state import RunState

WAIT = 20_000  # milliseconds


def untrained(folder, name):
    torch.manual_seed(3)
    arguments = (
        {**SMALL, "box_score_thresh": 0.0} if "rcnn" in name else {"variant": SMALL["variant"]}
    )
    spec = DetectorSpec(name, ("block", "bar"), arguments)
    folder.mkdir()
    save_spec(folder, spec)
    RunState(1, {}, spec.build().state_dict(), {}).save(folder)
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory, classifier, images):
    folder = tmp_path_factory.mktemp("runs")
    runs = [untrained(folder / name, name) for name in ("maskrcnn_bit_fpn", "fcn_bit")]
    with serving([*runs, classifier], images) as page:
        yield page


@pytest.fixture
def page(browser, served):
    visit = visit_of(browser, served.url)
    visit.page.wait_for_selector("#bit-similarity img[data-stage]", timeout=WAIT)
    yield visit.page
    visit.page.context.close()
    assert not visit.errors
    assert not visit.requests


def choose(page, label, option):
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option).click()


def found_picture(page):
    return page.locator("#bit-found img").get_attribute("src", timeout=WAIT)


def changed(page, before, selector="#bit-found img"):
    script = "([selector, before]) => document.querySelector(selector).src !== before"
    page.wait_for_function(script, arg=[selector, before], timeout=WAIT)


def threshold(page, value):
    before = found_picture(page)
    page.get_by_label("number input for Threshold").fill(str(value))
    page.keyboard.press("Enter")
    changed(page, before)


def downloaded(page, button, path):
    with page.expect_download(timeout=WAIT) as waiting:
        page.get_by_role("button", name=button).click()
    waiting.value.save_as(path)
    assert waiting.value.suggested_filename == path.name
    return path.read_text()


@pytest.fixture
def forwards(monkeypatch):
    """Counts how often a network runs."""
    import bit_backbone.app.detections as module

    calls, original = [], module.predict
    monkeypatch.setattr(module, "predict", lambda *given: calls.append(1) or original(*given))
    return calls


def test_a_threshold_needs_no_network(page, forwards, tmp_path):
    page.get_by_role("tab", name="Detect").click()
    choose(page, "Image to detect in", "a.png")
    found_picture(page)
    counts = []
    for value in (0.05, 0.36, 0.99):
        threshold(page, value)
        document = json.loads(downloaded(page, "Download COCO JSON", tmp_path / "detections.json"))
        assert all(found["score"] >= value for found in document["annotations"])
        assert document["images"][0] == {"id": 1, "file_name": "a.png", "width": 200, "height": 150}
        counts.append(len(document["annotations"]))
    assert counts[0] > counts[1] > counts[2] == 0
    assert len(forwards) == 1


def test_classes_are_switched_and_the_table_is_downloaded(page, forwards, tmp_path):
    page.get_by_role("tab", name="Detect").click()
    choose(page, "Image to detect in", "b.jpg")
    threshold(page, 0.1)
    path = tmp_path / "detections.csv"
    rows = list(csv.DictReader(downloaded(page, "Download CSV", path).splitlines()))
    assert {row["class"] for row in rows} == {"block", "bar"}
    before = found_picture(page)
    page.get_by_label("block", exact=True).uncheck()
    changed(page, before)
    rows = list(csv.DictReader(downloaded(page, "Download CSV", path).splitlines()))
    assert {row["class"] for row in rows} == {"bar"}
    assert len(forwards) == 1


def test_uploads_in_a_row_leave_out_what_is_damaged(page, served, tmp_path):
    page.get_by_role("tab", name="Detect").click()
    truncated(tmp_path / "bad.png")
    for name in ("one", "two"):
        photograph("flower@90x70").save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{name}.png" for name in ("one", "bad", "two")]
    page.locator("input[type=file][multiple]").set_input_files(files)
    message = page.get_by_test_id("toast-body").first
    message.wait_for(timeout=WAIT)
    assert "1 of 3 images were skipped; bad.png: " in message.inner_text()
    page.get_by_label("Show", exact=True).wait_for(timeout=WAIT)
    threshold(page, 0.05)
    document = json.loads(downloaded(page, "Download COCO JSON", tmp_path / "detections.json"))
    assert [image["file_name"] for image in document["images"]] == ["one.png", "two.png"]
    left = [path.name for path in served.files()]
    assert not {"one.png", "two.png", "bad.png"} & set(left)


def test_a_folder_runs_in_a_row(page, forwards):
    page.get_by_role("tab", name="Detect").click()
    page.get_by_role("button", name="All 2 of the folder").click()
    page.get_by_label("Show", exact=True).wait_for(timeout=WAIT)
    before = found_picture(page)
    choose(page, "Show", "b.jpg")
    changed(page, before)
    assert len(forwards) == 2


def test_a_segmenter_colours_pixels(page, tmp_path):
    page.get_by_role("tab", name="Detect").click()
    choose(page, "Detector", "fcn_bit")
    choose(page, "Image to detect in", "a.png")
    found_picture(page)
    document = json.loads(downloaded(page, "Download COCO JSON", tmp_path / "detections.json"))
    assert document["annotations"]
    assert all(found["segmentation"]["size"] == [150, 200] for found in document["annotations"])


def test_the_classes_and_where_they_come_from(page, classifier):
    page.get_by_role("tab", name="Classify").click()
    choose(page, "Image to classify", "a.png")
    bars = page.locator("#bit-classes")
    bars.get_by_text("1. ", exact=False).first.wait_for(timeout=WAIT)
    with_names = Networks([str(classifier)])
    answer = classify(with_names, "animals", photograph("china@200x150").convert("RGB"))
    shown = bars.inner_text()
    for name, probability in zip(answer.names, answer.probabilities, strict=True):
        assert name in shown
        assert f"{probability:.0%}" in shown
    text = page.locator("#bit-sum").inner_text()
    total, bias, logit = (float(n) for n in re.findall(r"(-?\d+\.\d{3})", text))
    assert total + bias == pytest.approx(logit, abs=2e-3)
    assert logit == pytest.approx(answer.logits[0], abs=1e-3)
    before = page.locator("#bit-evidence img").get_attribute("src")
    page.get_by_role("radio", name=answer.names[2]).check()
    changed(page, before, "#bit-evidence img")


def test_tabs_without_a_network_say_what_is_needed(browser, classifier, tmp_path):
    run = untrained(tmp_path / "run", "fcn_bit")
    for checkpoint, tab, words in (
        (classifier, "Detect", "trained by bit-backbone train"),
        (run, "Classify", "bit-backbone finetune makes"),
    ):
        with serving([checkpoint]) as served:
            visit = visit_of(browser, served.url)
            visit.page.get_by_role("tab", name=tab).click()
            visit.page.get_by_text(words, exact=False).first.wait_for(timeout=WAIT)
            visit.page.context.close()
