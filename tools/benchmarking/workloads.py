"""What is measured: a network, images, and what is done with them."""

from __future__ import annotations

from dataclasses import dataclass

BFLOAT16, INT8 = "-bf16", "-int8"  # ends of the names of contenders with a type of their own

# The first of each tuple is what the others are compared with where it is a floor.
PLAIN = ("floor", "floor-kept", "ours", "optimized-unkept", "optimized", "timm", "transformers")
COMPILED = ("compiled", "timm-compiled", "transformers-compiled")
BESIDE = (
    *("floor-kept", "optimized", "onnxruntime", "openvino", "timm", "transformers"),
    *("floor-kept-bf16", "optimized-bf16", "openvino-bf16", "timm-bf16", "transformers-bf16"),
    "optimized-int8",
)
RUNTIMES = (*BESIDE, "timm-onnxruntime", "timm-openvino", "timm-openvino-bf16")
ONE_BY_ONE = (
    *("optimized", "onnxruntime", "openvino", "timm"),
    *("optimized-bf16", "openvino-bf16", "timm-bf16", "optimized-int8"),
)
LARGE = ("floor-kept", "optimized", "timm", "transformers")  # what fits in memory side by side
TRAINING = ("floor", "ours", "ours-kept", "recompute-kept", "timm", "transformers")
PYRAMIDS = (
    "ours-fpn",
    "optimized-fpn",
    "torchvision-r50-fpn",
    "detectron2-r50-fpn",
    "detectron2-r50-fpn-gn",
)


@dataclass(frozen=True)
class Workload:
    """One thing to do, for every contender.

    Attributes:
        name: What --workloads calls it.
        size: Height and width of the images, in pixels.
        batch: Images at once.
        variant: The BiT network.
        out_indices: Which stages are returned.
        mode: "inference", "training" (forward, backward, SGD step) or "construct".
        contenders: Who takes part unless --contenders says otherwise.
        together: Whether contenders are there at once and take turns; False for networks of which
            the memory holds one.
    """

    name: str
    size: tuple[int, int] = (800, 1333)
    batch: int = 1
    variant: str = "R50x1"
    out_indices: tuple[int, ...] = (1, 2, 3, 4)
    mode: str = "inference"
    contenders: tuple[str, ...] = PLAIN
    together: bool = True

    def describe(self) -> str:
        """Returns a heading."""
        if self.mode == "construct":
            return f"{self.variant}, constructed, ready for loading"
        stages = ", ".join(f"stage{index}" for index in self.out_indices)
        height, width = self.size
        images = "image" if self.batch == 1 else "images"
        return f"{self.variant}, {self.mode}, {self.batch} {images} of {height} x {width}, {stages}"


def named_type(contender: str) -> tuple[str, str]:
    """Returns a contender's name without the end for its type, and that end, or an empty one."""
    for kind in (BFLOAT16, INT8):
        if contender.endswith(kind):
            return contender.removesuffix(kind), kind
    return contender, ""


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("800"),
        Workload("800-batch2", batch=2, contenders=LARGE),
        Workload("800-batch8", batch=8, contenders=LARGE),
        Workload("800-batch16", batch=16, contenders=LARGE),
        Workload("800-stage12", out_indices=(1, 2)),
        Workload("224", size=(224, 224)),
        Workload("224-batch2", size=(224, 224), batch=2),
        Workload("224-batch8", size=(224, 224), batch=8),
        Workload("224-batch16", size=(224, 224), batch=16),
        Workload("800-compiled", contenders=("floor-kept", "optimized", *COMPILED)),
        Workload("224-compiled", (224, 224), contenders=("floor-kept", "optimized", *COMPILED)),
        Workload("800-runtimes", contenders=RUNTIMES),
        Workload("224-runtimes", (224, 224), contenders=RUNTIMES),
        Workload("224-runtimes-batch8", (224, 224), batch=8, contenders=BESIDE),
        Workload("224-runtimes-batch16", (224, 224), batch=16, contenders=BESIDE),
        Workload(
            "R101x3-224-runtimes", (224, 224), 1, "R101x3", contenders=ONE_BY_ONE, together=False
        ),
        Workload("R101x3-800-runtimes", variant="R101x3", contenders=ONE_BY_ONE, together=False),
        Workload("train", size=(384, 512), batch=2, mode="training", contenders=TRAINING),
        Workload("fpn", contenders=PYRAMIDS),
        Workload("R101x3-224", size=(224, 224), variant="R101x3", contenders=LARGE),
        Workload("R101x3-800", variant="R101x3", contenders=LARGE),
        Workload(
            "construct",
            variant="R152x4",
            mode="construct",
            contenders=("ours", "timm", "transformers"),
        ),
    )
}
DEFAULT_WORKLOADS = ("800", "224", "800-stage12", "train")
