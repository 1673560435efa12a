"""Counts a network's parameters, multiply-accumulates, output shapes and activation memory.

Everything is counted on the meta device, without allocating weights or computing values, so the
largest variants are profiled in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import BitConfig
from bit_backbone.profiling.live_bytes import LiveBytes
from bit_backbone.profiling.meta_answers import MetaAnswers
from bit_backbone.utils.empty_weights import init_empty_weights

__all__ = ["Profile", "StageTimer", "profile"]


@dataclass(frozen=True)
class Profile:
    """Costs of one forward.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-accumulate operations of the convolutions, by fvcore's rule.
        shapes: Shape of each output.
        inference_bytes: Most bytes of activations alive at once without gradients. They exclude the
            input, the parameters and workspaces (the libraries' own, and up to 64 MB that native
            kernels keep for the next filters).
        training_bytes: Bytes saved for backward, including those of standardization. They exclude
            the input, the parameters and workspaces, and another percent or two for contiguous
            maps on a CPU.
    """

    parameters: int
    macs: int
    shapes: Mapping[str, tuple[int, ...]]
    inference_bytes: int
    training_bytes: int


def profile(
    config: BitConfig, image_size: tuple[int, int], *, batch: int = 1, dtype: torch.dtype
) -> Profile:
    """Counts the costs of a backbone without allocating it.

    Args:
        config: The network; its deepest requested output is the last stage built.
        image_size: (height, width) in pixels.
        batch: Images per forward.
        dtype: Type of weights and activations.

    Raises:
        ValueError: A size or the batch is not positive.
    """
    if min(*image_size, batch) < 1:
        raise ValueError(
            f"height, width and batch must be at least 1, got {image_size} and batch {batch}"
        )
    with init_empty_weights():
        backbone = BitBackbone(config).to(dtype)
        images = torch.empty(batch, config.num_channels, *image_size, dtype=dtype)
    macs = _MacCounter(backbone)
    with MetaAnswers():
        with torch.no_grad():
            shapes = {name: tuple(f.shape) for name, f in backbone(images).items()}
            macs.remove()
            with LiveBytes(images, *backbone.parameters()) as live:
                backbone(images)
        saved = _saved_bytes(backbone, images)
    return Profile(
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        macs=macs.total,
        shapes=shapes,
        inference_bytes=live.peak,
        training_bytes=saved,
    )


class _MacCounter:
    """Adds up the products of a module's convolutions, as fvcore counts them."""

    def __init__(self, module: nn.Module) -> None:
        self.total = 0
        convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        self._handles = [m.register_forward_hook(self._count) for m in convolutions]

    def _count(self, conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        self.total += output.numel() * conv.weight[0].numel()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _saved_bytes(backbone: nn.Module, images: Tensor) -> int:
    """Returns the bytes of the distinct storages that a training forward saves for backward."""
    known = {p.untyped_storage()._cdata for p in backbone.parameters()}
    known.add(images.untyped_storage()._cdata)
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = backbone.train()(images)
    total = sum(storage.nbytes() for storage in kept.values())
    del outputs
    return total


class StageTimer:
    """Times the stem and each stage of every forward.

    Attributes:
        milliseconds: Wall time of each part in the latest forward.
    """

    def __init__(self, backbone: BitBackbone) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = 0.0
        backbone.register_forward_pre_hook(self._start)
        for name in backbone.config.stage_names[: backbone.out_indices[-1] + 1]:
            backbone.get_submodule(name).register_forward_hook(self._recorder(name))

    def _start(self, module: nn.Module, inputs: Any) -> None:
        self._last = _now()

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            now = _now()
            self.milliseconds[name] = (now - self._last) * 1e3
            self._last = now

        return record


def _now() -> float:
    """Waits until the device has finished its work, and returns the time in seconds."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
