"""Packed maps, and the page that computes similarities from them in a browser."""

import pytest
import torch
from browser import opened
from networks import TINY, randomise
from photographs import photograph
from torch.nn import functional as F

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import BitConfig
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.visualization import explorer
from bit_backbone.visualization.explorer import explorer_page
from bit_backbone.visualization.packed_maps import TOLERANCE, pack
from bit_backbone.visualization.similarity import UnitMap, contrast


def features_of(picture, **settings):
    backbone = randomise(BitBackbone(BitConfig(**TINY, out_indices=range(5), **settings))).eval()
    processor = BitImageProcessor(do_resize=False, do_center_crop=False)
    with torch.inference_mode():
        features = backbone(processor(picture, return_tensors="pt")["pixel_values"])
    return {name: feature[0] for name, feature in features.items()}


@pytest.mark.parametrize("shape", [(40, 9, 13), (300, 6, 8), (3, 20, 30), (2, 1, 1), (1, 3, 3)])
def test_packed_maps_keep_every_similarity(shape):
    units = UnitMap.of(torch.randn(shape).exp())
    packed = pack(units)
    kept = packed.units()
    assert packed.components == len(kept) <= min(shape[0], shape[1] * shape[2])
    difference = (kept.T @ kept - units.units.T @ units.units).abs().max()
    assert difference <= TOLERANCE
    assert 0.5 * difference <= packed.error <= difference + 1e-6


def test_maps_of_few_directions_take_few_bytes():
    few = torch.randn(128, 3) @ torch.randn(3, 400)
    packed = pack(UnitMap.of(few.view(128, 20, 20)))
    assert packed.components == 3
    assert len(packed.codes) < 3 * 400


def test_pixels_of_zeros_stay_similar_to_nothing():
    feature = torch.randn(8, 4, 5)
    feature[:, 1, 2] = 0
    units = pack(UnitMap.of(feature)).units()
    assert (units[:, 7] == 0).all()
    assert (units[:, 8].norm() - 1).abs() < 1e-5


@pytest.mark.parametrize("settings", [{}, {"feature_norm": "preact", "output_stride": 8}])
def test_the_page_computes_what_the_network_does(tmp_path, settings):
    picture = photograph("china@161x97")
    features = features_of(picture, **settings)
    file = tmp_path / "page.html"
    file.write_text(explorer_page(picture, features, title="<china> & @DATA@"), encoding="utf-8")
    with opened(file) as visit:
        visit.page.wait_for_selector("body[data-milliseconds]")
        assert visit.page.title() == "<china> & @DATA@"
        for x, y in ((0.1, 0.9), (0.5, 0.5), (0.999, 0.0)):
            for name, feature in features.items():
                shown = visit.page.evaluate(
                    "([name, x, y]) => Array.from(similarity(name, x, y))", [name, x, y]
                )
                _, height, width = feature.shape
                row, column = int(y * height), int(x * width)
                query = feature[:, row, column][:, None, None]
                expected = F.cosine_similarity(feature, query.expand_as(feature), dim=0)
                found = torch.tensor(shown).view(height, width)
                assert (found - expected).abs().max() <= TOLERANCE
                assert found[row, column] == pytest.approx(1, abs=1e-5)
                assert found[row, column] >= found.max() - 1e-6
    assert not visit.errors
    assert not visit.requests


def test_a_click_moves_every_map(tmp_path):
    picture = photograph("china@161x97")
    file = tmp_path / "page.html"
    file.write_text(explorer_page(picture, features_of(picture), title="china", about="A tiny."))
    with opened(file) as visit:
        page = visit.page
        page.wait_for_selector("body[data-milliseconds]")
        assert visit.texts("figcaption b") == [
            "photograph",
            "stem",
            *(f"stage{i}" for i in range(1, 5)),
        ]
        assert "A tiny. Click a pixel" in page.inner_text("p")
        before = page.evaluate("maps.stage1.canvas.toDataURL()")
        box = page.locator(".frame img").first.bounding_box()
        page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
        assert page.evaluate("place") == pytest.approx([0.25, 0.75], abs=0.01)
        assert page.evaluate("maps.stage1.canvas.toDataURL()") != before
        best = page.evaluate(
            "Array.from(maps.stage1.values).indexOf(Math.max(...maps.stage1.values))"
        )
        assert best == page.evaluate("indexOf(maps.stage1, ...place)")
        values = torch.tensor(page.evaluate("Array.from(maps.stage1.values)")).view(1, -1)
        low, high = contrast(values)
        assert page.evaluate("rangeOf(maps.stage1.values)") == pytest.approx([low, high], abs=1e-6)
        assert f"stage1: {low:z.2f} to {high:z.2f}" in visit.texts("figcaption")[2]
        heights = page.locator(".frame").evaluate_all("x => x.map(f => f.clientHeight)")
        assert max(heights) - min(heights) <= 1, "every map is as high as the photograph"
        page.locator("[data-map=stage4]").focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("place[0]") > 0.25
        box = page.locator("[data-map=stage2] canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert "here" in page.locator("[data-map=stage2] + figcaption").inner_text()
        page.get_by_label("principal components").check()
        assert page.locator("[data-map=stage2] img").is_visible()
        assert not page.locator("[data-map=stage2] canvas").is_visible()
        width = page.evaluate("[document.body.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], "the page does not scroll sideways"
    assert not visit.errors
    assert not visit.requests


def test_the_page_follows_dark_and_light(tmp_path):
    picture = photograph("china@64x48")
    file = tmp_path / "page.html"
    file.write_text(explorer_page(picture, features_of(picture), title="china"))
    script = "getComputedStyle(document.body).backgroundColor"
    with opened(file) as visit:
        colours = []
        for scheme in ("dark", "light"):
            visit.page.emulate_media(color_scheme=scheme)
            colours.append(visit.page.evaluate(script))
    assert colours == ["rgb(23, 23, 28)", "rgb(255, 255, 255)"]


def test_what_does_not_fit_into_a_page_says_so(monkeypatch):
    picture = photograph("china@64x48")
    features = features_of(picture)
    monkeypatch.setattr(explorer, "MOST_BYTES", 8_000)
    with pytest.raises(
        ValueError, match=r"at most 0.008 MB, got 0\.\d MB of stem \(12 x 16\), .*smaller"
    ):
        explorer_page(picture, features, title="china")


@pytest.mark.slow
def test_a_photograph_of_640_by_480_takes_8_mb_at_most():
    picture = photograph("flower").resize((640, 480))
    backbone = BitBackbone(BitConfig(out_indices=range(5), feature_norm="preact")).eval()
    processor = BitImageProcessor(do_resize=False, do_center_crop=False)
    with torch.inference_mode():
        maps = backbone(processor(picture, return_tensors="pt")["pixel_values"])
    page = explorer_page(picture, {k: v[0] for k, v in maps.items()}, title="R50x1")
    assert len(page.encode()) <= 8_000_000
