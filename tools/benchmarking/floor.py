"""The lower bounds: only the convolutions, and the memory's bandwidth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import BitBackbone, keep_pages

from .steps import Step

COPIED_BYTES = 1 << 28


def floor(network: BitBackbone, images: Tensor, mode: str, kept: bool) -> Step:
    """Only the network's convolutions, channels-last, on inputs and weights that are there.

    Args:
        network: Whose convolutions.
        images: Whose sizes.
        mode: "inference", or "training" for the backward pass too.
        kept: Whether freed pages are kept, see ``bit_backbone.keep_pages``.
    """
    if kept:
        keep_pages()
    calls: list[tuple[Any, torch.Size]] = []
    passed = 0  # bytes that norms and sums move, if each is one operation of its own

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal passed
        if isinstance(module, nn.Conv2d):
            calls.append((module, inputs[0].shape))
        else:  # a norm reads its input twice and writes once; a sum reads two maps and writes one
            moved = inputs[0] if isinstance(module, nn.GroupNorm) else output
            passed += 3 * moved.numel() * moved.element_size()

    for name, module in network.named_modules():
        is_unit = name.startswith("stage") and name.count(".") == 1
        if is_unit or isinstance(module, nn.Conv2d | nn.GroupNorm):
            module.register_forward_hook(record)
    with torch.no_grad():
        network(images)
        weights = [conv.standardized_weight().clone() for conv, _ in calls]
    layout = {"memory_format": torch.channels_last}
    inputs = [torch.randn(shape, device=images.device).to(images.dtype) for _, shape in calls]
    pairs = [(x.to(**layout), w.to(**layout)) for x, w in zip(inputs, weights, strict=True)]
    del inputs, weights, network
    convolutions = [conv for conv, _ in calls]
    run = _backward_too if mode == "training" else _forward_alone
    return Step(lambda: run(convolutions, pairs), {"unavoidable_bytes": passed})


@torch.inference_mode()
def _forward_alone(convolutions: list[Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
    for conv, (x, weight) in zip(convolutions, pairs, strict=True):
        F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation)


def _backward_too(convolutions: list[Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
    for index, (conv, (x, weight)) in enumerate(zip(convolutions, pairs, strict=True)):
        weight.requires_grad_()
        x.requires_grad_(index > 0)  # images need no gradient
        y = F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation)
        torch.autograd.grad(y, [weight, x] if index else [weight], torch.ones_like(y))


def bandwidth(device: str) -> Step:
    """Copies 256 MiB from one place in memory to another."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return Step(lambda: target.copy_(source), {"moved_bytes": 2 * COPIED_BYTES})
