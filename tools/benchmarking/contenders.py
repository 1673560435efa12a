"""Who is measured: each contender builds a network as its users would, and returns its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import (
    BitBackbone,
    BitConfig,
    BitForImageClassification,
    keep_pages,
    optimize_for_inference,
)
from bit_backbone.utils.empty_weights import init_empty_weights

from .floor import bandwidth, floor
from .runtimes import exported, plainly_exported
from .steps import Step
from .workloads import BFLOAT16, Workload

Network = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Setting:
    """Where and in what the networks run.

    Attributes:
        device: "cpu" or "cuda".
        dtype: Of weights and images.
        channels_last: Whether the images and every network but the peers' CPU ones are.
        files: Folder for the files of a run that several contenders read.
        isa: Name of the vector instructions to which the process is limited, or None.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    files: str = ""
    isa: str | None = None

    def place(self, value: Any) -> Any:
        """Moves a network or images there."""
        memory_format = torch.channels_last if self.channels_last else torch.preserve_format
        return value.to(self.device, self.dtype).to(memory_format=memory_format)


def build(name: str, work: Workload, setting: Setting) -> Step:
    """Builds a contender.

    Raises:
        ImportError: Its package is not installed.
    """
    if work.mode == "construct":
        return Step(lambda: _CONSTRUCTORS[name](work.variant))
    if name == "bandwidth":
        return bandwidth(setting.device)
    images = setting.place(torch.randn(work.batch, 3, *work.size))
    if name.startswith("floor"):
        if name.endswith(BFLOAT16):
            setting = replace(setting, dtype=torch.bfloat16)
            images = setting.place(images)
        network = setting.place(_ours(work).eval())
        return floor(network, images, work.mode, kept=name.startswith("floor-kept"))
    network = CONTENDERS[name](work, setting)
    if work.mode == "training":
        return Step(_training_step(network, images))
    network.eval()
    if name == "optimized-graph":
        return Step(_cuda_graph(network, images))
    return Step(lambda: _infer(network, images))


@torch.inference_mode()
def _infer(network: Network, images: Tensor) -> Any:
    return network(images)


def _training_step(network: nn.Module, images: Tensor) -> Callable[[], None]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        outputs = network(images)
        features = getattr(outputs, "feature_maps", outputs)
        features = features.values() if isinstance(features, dict) else features
        optimizer.zero_grad()
        sum(feature.float().square().mean() for feature in features).backward()
        optimizer.step()

    return step


def _cuda_graph(network: nn.Module, images: Tensor) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            network(images)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        network(images)
    return graph.replay


def _ours(work: Workload) -> BitBackbone:
    return BitBackbone(work.variant, out_indices=work.out_indices)


def _eager(work: Workload, setting: Setting) -> nn.Module:
    return setting.place(_ours(work))


def _kept(recompute: bool) -> Callable[[Workload, Setting], nn.Module]:
    def build_kept(work: Workload, setting: Setting) -> nn.Module:
        keep_pages()
        network = _ours(work)
        network.set_activation_recompute(recompute)
        return setting.place(network)

    return build_kept


def _optimized(**options: Any) -> Callable[[Workload, Setting], nn.Module]:
    def build_optimized(work: Workload, setting: Setting) -> nn.Module:
        return optimize_for_inference(setting.place(_ours(work)), **options)

    return build_optimized


def _their_network(work: Workload) -> nn.Module:
    import timm

    return timm.create_model(
        f"resnetv2_{work.variant[1:]}_bit", features_only=True, out_indices=work.out_indices
    )


def _timm(work: Workload, setting: Setting) -> nn.Module:
    return setting.place(_their_network(work))


def _transformers_config(variant: str, **options: Any) -> Any:
    from transformers import BitConfig as TheirConfig

    ours = BitConfig.from_variant(variant)
    # Their width_factor is broken, so the widths are written out.
    widths = [int(size * ours.width_factor) for size in ours.hidden_sizes]
    stem = int(ours.embedding_size * ours.width_factor)
    depths = list(ours.depths)
    return TheirConfig(hidden_sizes=widths, embedding_size=stem, depths=depths, **options)


def _transformers(work: Workload, setting: Setting) -> nn.Module:
    from transformers import BitBackbone as TheirBackbone

    config = _transformers_config(work.variant, out_indices=list(work.out_indices))
    return setting.place(TheirBackbone(config))


def _compiled(
    builder: Callable[[Workload, Setting], nn.Module],
) -> Callable[[Workload, Setting], nn.Module]:
    def build_compiled(work: Workload, setting: Setting) -> nn.Module:
        network = builder(work, setting)
        network.compile()
        return network

    return build_compiled


def _autocast(
    builder: Callable[[Workload, Setting], nn.Module],
) -> Callable[[Workload, Setting], nn.Module]:
    def build_autocast(work: Workload, setting: Setting) -> nn.Module:
        return _Autocast(builder(work, setting), setting.device)

    return build_autocast


class _Autocast(nn.Module):
    """A peer in bfloat16, by PyTorch's autocast."""

    def __init__(self, network: nn.Module, device: str) -> None:
        super().__init__()
        self.network, self.device = network, device

    def forward(self, images: Tensor) -> Any:
        with torch.autocast(self.device, torch.bfloat16):
            return self.network(images)


def _our_pyramid(work: Workload, setting: Setting) -> nn.Module:
    from bit_backbone.torchvision import bit_fpn_backbone

    return setting.place(bit_fpn_backbone(work.variant))


def _optimized_pyramid(work: Workload, setting: Setting) -> nn.Module:
    return optimize_for_inference(_our_pyramid(work, setting).eval())


def _torchvision_pyramid(work: Workload, setting: Setting) -> nn.Module:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return setting.place(resnet_fpn_backbone(backbone_name="resnet50", weights=None))


def _detectron2_pyramid(norm: str) -> Callable[[Workload, Setting], nn.Module]:
    def build_pyramid(work: Workload, setting: Setting) -> nn.Module:
        from detectron2.config import get_cfg
        from detectron2.modeling import build_backbone

        cfg = get_cfg()
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        if norm == "GN":  # as in detectron2's scratch_mask_rcnn_R_50_FPN_3x_gn.yaml
            cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "GN"
            cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        return _Padded(setting.place(build_backbone(cfg)))

    return build_pyramid


class _Padded(nn.Module):
    """Pads images to the stride that detectron2's pyramids need, as its detectors do."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        step = self.backbone.size_divisibility
        height, width = images.shape[-2:]
        return self.backbone(F.pad(images, (0, -width % step, 0, -height % step)))


def _construct_ours(variant: str) -> nn.Module:
    with init_empty_weights():
        return BitForImageClassification(variant)


def _construct_timm(variant: str) -> nn.Module:
    import timm

    return timm.create_model(f"resnetv2_{variant[1:]}_bit")


def _construct_transformers(variant: str) -> nn.Module:
    from transformers import BitForImageClassification as Theirs

    return Theirs(_transformers_config(variant))


_CONSTRUCTORS = {
    "ours": _construct_ours,
    "timm": _construct_timm,
    "transformers": _construct_transformers,
}
CONTENDERS: dict[str, Callable[[Workload, Setting], nn.Module]] = {
    "ours": _eager,
    "ours-kept": _kept(recompute=False),
    "recompute-kept": _kept(recompute=True),
    "optimized": _optimized(),
    "optimized-unkept": _optimized(keep_pages=False),
    "optimized-graph": _optimized(),
    "optimized-bf16": _optimized(dtype=torch.bfloat16),
    "optimized-int8": _optimized(dtype=torch.int8),
    "compiled": _optimized(compile=True),
    "compiled-bf16": _optimized(compile=True, dtype=torch.bfloat16),
    "timm": _timm,
    "timm-bf16": _autocast(_timm),
    "timm-compiled": _compiled(_timm),
    "transformers": _transformers,
    "transformers-bf16": _autocast(_transformers),
    "transformers-compiled": _compiled(_transformers),
    "onnxruntime": exported(_ours, "onnx"),
    "openvino": exported(_ours, "openvino"),
    "openvino-bf16": exported(_ours, "openvino", torch.bfloat16),
    "timm-onnxruntime": plainly_exported(_their_network, "onnx"),
    "timm-openvino": plainly_exported(_their_network, "openvino"),
    "timm-openvino-bf16": plainly_exported(_their_network, "openvino", torch.bfloat16),
    "ours-fpn": _our_pyramid,
    "optimized-fpn": _optimized_pyramid,
    "torchvision-r50-fpn": _torchvision_pyramid,
    "detectron2-r50-fpn": _detectron2_pyramid("FrozenBN"),
    "detectron2-r50-fpn-gn": _detectron2_pyramid("GN"),
}
NAMES = ("floor", "floor-kept", "floor-bf16", "floor-kept-bf16", *CONTENDERS)
