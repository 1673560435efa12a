"""The Features tab, in a real browser."""

import base64
import io
import re
import time

import numpy as np
import pytest
from browser import Visit, visit_of
from damaged_images import bomb, corrupt_chunk, truncated, web_page
from photographs import photograph
from PIL import Image
from served_pages import serving

WAIT = 15_000  # milliseconds


@pytest.fixture(scope="module")
def served(classifier, other, images):
    with serving([classifier, other], images) as page:
        yield page


@pytest.fixture
def visit(browser, served):
    visit = visit_of(browser, served.url)
    wait_for(visit, "a.png")
    yield visit
    visit.page.context.close()
    assert not visit.errors
    assert not visit.requests, "the page asks nobody but its server"


def wait_for(visit: Visit, name: str) -> None:
    """Waits until a photograph is shown."""
    caption = visit.page.locator("#bit-photograph figcaption", has_text=f"{name}:")
    caption.wait_for(timeout=WAIT)


def maps(visit: Visit, row: int = 0) -> dict[str, np.ndarray]:
    """Returns the levels 0..255 of a row's similarities."""
    images = visit.page.locator("#bit-similarity .bit-maps").nth(row).locator("img[data-stage]")
    found = {}
    for name, source in images.evaluate_all("x => x.map(i => [i.dataset.stage, i.src])"):
        content = base64.b64decode(source.partition(",")[2])
        found[name] = np.asarray(Image.open(io.BytesIO(content)))  # a palette's indices
    return found


def click(visit: Visit, x: float, y: float, selector: str = "#bit-photograph img") -> None:
    """Clicks, and waits for other maps."""
    first = "document.querySelector('#bit-similarity img[data-stage]').src"
    before = visit.page.evaluate(first)
    target = visit.page.locator(selector).first
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    visit.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    visit.page.wait_for_function(f"before => {first} !== before", arg=before, timeout=WAIT)


def upload(visit: Visit, path, which: int = 0) -> None:
    visit.page.locator("input[type=file]").nth(which).set_input_files(path)


def toast(visit: Visit) -> str:
    message = visit.page.get_by_test_id("toast-body").first
    message.wait_for(timeout=WAIT)
    return message.inner_text()


@pytest.mark.parametrize(("x", "y"), [(0.21, 0.31), (0.91, 0.81)])
def test_the_largest_similarity_lies_at_the_click(visit, x, y):
    assert list(maps(visit)) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    click(visit, x, y)
    for levels in maps(visit).values():
        height, width = levels.shape
        assert levels[int(y * height), int(x * width)] == 255 == levels.max()
        assert levels.min() == 0
    marker = visit.page.locator("#bit-photograph .bit-marker")
    assert marker.evaluate("m => parseFloat(m.style.left)") == pytest.approx(100 * x, abs=1)


def test_a_click_in_a_map_and_a_key_move_the_pixel(visit):
    click(visit, 0.75, 0.25, "#bit-similarity img[data-stage=stage1]")
    levels = maps(visit)["stage2"]
    assert levels[levels.shape[0] // 4, 3 * levels.shape[1] // 4] == 255
    left = "parseFloat(document.querySelector('#bit-photograph .bit-marker').style.left)"
    before = visit.page.evaluate(left)
    visit.page.locator("#bit-photograph .bit-frame").focus()
    visit.page.keyboard.press("ArrowLeft")
    assert visit.page.evaluate(left) == pytest.approx(before - 100 / 64, abs=0.1)


def test_two_networks_and_two_photographs_share_the_pixel(visit):
    titles = visit.texts("#bit-similarity h3 span")
    assert titles == [
        "a.png\nanimals, as trained, stride 32",
        "a.png\nplants, as trained, stride 32",
    ]
    visit.page.get_by_label("Second photograph, for the same pixel").click()
    visit.page.get_by_role("option", name="b.jpg").click()
    visit.page.locator("#bit-similarity h3", has_text="b.jpg").nth(1).wait_for(timeout=WAIT)
    assert len(visit.texts("#bit-similarity h3")) == len(visit.texts("#bit-components h3")) == 4
    click(visit, 0.3, 0.6)
    ours, theirs, matches = maps(visit, 0), maps(visit, 1), maps(visit, 2)
    assert any((ours[name] != theirs[name]).any() for name in ours)
    assert {name: levels.shape for name, levels in matches.items()} != {
        name: levels.shape for name, levels in ours.items()
    }
    captions = visit.texts("#bit-similarity .bit-maps:nth-of-type(3) figcaption")
    assert all(re.search(r": -?\d\.\d\d to -?\d\.\d\d, best -?\d\.\d\d", text) for text in captions)
    frame = visit.page.locator("#bit-similarity .bit-maps:nth-of-type(3) .bit-frame").last
    style = frame.locator(".bit-marker").get_attribute("style")
    left, top = (float(value) / 100 for value in re.findall(r"([\d.]+)%", style))
    levels = matches["stage4"]
    height, width = levels.shape
    assert levels[int(top * height), int(left * width)] == levels.max()


def test_settings_change_the_maps(visit):
    page = visit.page
    assert maps(visit)["stage4"].shape == (5, 7)
    page.get_by_label("Network beside it").click()
    page.get_by_role("option", name="none").click()
    page.wait_for_function("document.querySelectorAll('#bit-similarity h3').length === 1")
    page.locator("fieldset", has_text="Output stride").get_by_label("8", exact=True).check()
    page.locator("#bit-similarity h3", has_text="stride 8").wait_for(timeout=WAIT)
    assert maps(visit)["stage4"].shape == (19, 25)
    page.get_by_label("preact").check()
    page.locator("#bit-similarity h3", has_text="preact").wait_for(timeout=WAIT)
    page.get_by_label("stem").uncheck()
    page.wait_for_function("!document.querySelector('#bit-components img[data-stage=stem]')")
    assert list(maps(visit)) == ["stage1", "stage2", "stage3", "stage4"]
    page.get_by_label("raw").check()
    page.locator("#bit-similarity h3", has_text="raw").wait_for(timeout=WAIT)
    assert list(maps(visit)) == ["stage1", "stage2", "stage3", "stage4"], "what is off stays off"


def test_an_upload_is_shown_and_its_file_removed(visit, served, tmp_path):
    path = tmp_path / "<b>mine.png"
    photograph("china@90x80").save(path)
    upload(visit, path)
    visit.page.locator("#bit-photograph figcaption", has_text="90 x 80").wait_for(timeout=WAIT)
    assert "mine.png" in visit.texts("#bit-photograph figcaption")[0]
    assert visit.page.locator("#bit-photograph b").count() == 0
    click(visit, 0.6, 0.5)
    assert served.files() == []


def too_many_pixels(path):
    Image.new("1", (8000, 7000)).save(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (truncated, r"truncated"),
        (corrupt_chunk, r"bad\.png is damaged or too large: broken PNG file"),
        (web_page, r"cannot identify image file 'bad\.png'"),
        (
            too_many_pixels,
            r"at most 50 million pixels, and bad\.png has 8000 x 7000; make it smaller",
        ),
        (bomb, r"bad\.png is damaged or too large: Image size \(900000000 pixels\) exceeds limit"),
    ],
)
def test_a_damaged_upload_gets_a_message_and_the_server_lives(
    visit, served, tmp_path, write, message
):
    write(tmp_path / "bad.png")
    upload(visit, tmp_path / "bad.png")
    text = toast(visit)
    assert re.search(message, text)
    assert str(served.folder) not in text
    assert served.files() == []
    click(visit, 0.1, 0.2)  # what was there before still is


def test_two_users_do_not_see_each_others_photographs(visit, browser, served, tmp_path):
    photograph("coins@120x90").save(tmp_path / "mine.png")
    upload(visit, tmp_path / "mine.png")
    wait_for(visit, "mine.png")
    second = visit_of(browser, served.url)
    wait_for(second, "a.png")
    click(second, 0.4, 0.4)
    assert "mine.png" not in second.page.content()
    assert maps(second)["stage1"].shape == (38, 50)
    click(visit, 0.6, 0.6)
    assert maps(visit)["stage1"].shape == (23, 30)
    second.page.context.close()


def test_a_closed_page_is_forgotten(browser, served):
    visit = visit_of(browser, served.url)
    wait_for(visit, "a.png")
    states = served.page.state_holder.session_data
    session = next(reversed(states))
    assert states[session].state_data
    visit.page.context.close()
    deadline = time.monotonic() + 30
    while states[session].state_data and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not states[session].state_data
