"""Advice about the memory of maps: it changes no value and asks only for what the map holds."""

import pytest
import torch

from bit_backbone.kernels import huge_pages
from bit_backbone.kernels.conv import conv2d


@pytest.mark.parametrize("size", [0, 1, huge_pages.SMALLEST - 1, huge_pages.SMALLEST, 9_999_999])
def test_whole_pages_within_the_map_are_asked_for(size, monkeypatch):
    asked = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda: lambda *given: asked.append(given))
    fresh = torch.empty(size, dtype=torch.uint8)
    assert huge_pages.in_huge_pages(fresh) is fresh
    assert bool(asked) == (size >= huge_pages.SMALLEST)
    for begin, length, _ in asked:
        assert begin % huge_pages.PAGE == length % huge_pages.PAGE == 0
        assert fresh.data_ptr() <= begin < begin + length <= fresh.data_ptr() + size


def test_systems_without_it_do_nothing(monkeypatch):
    monkeypatch.setattr(huge_pages, "_madvise", lambda: None)
    huge_pages.in_huge_pages(torch.empty(huge_pages.SMALLEST, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_are_the_same_with_and_without_autograd(dtype):
    x = torch.randn(1, 64, 150, 160, dtype=dtype)
    weight = torch.randn(96, 64, 1, 1, dtype=dtype)
    settings = ((1, 1), (0, 0), (1, 1))
    recorded = conv2d(x, weight.clone().requires_grad_(), *settings)
    with torch.no_grad():
        assert torch.equal(conv2d(x, weight, *settings), recorded)
