"""Converting a checkpoint from any format into any other, tensor by tensor and without loss."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bit_backbone.checkpoints.architecture import Architecture
from bit_backbone.checkpoints.checkpoint import Checkpoint
from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files import WEIGHT_FILES
from bit_backbone.checkpoints.formats import FORMATS, HEAD, HEAD_WEIGHT, STEM_GAIN, Format
from bit_backbone.checkpoints.matching import Target, is_own, match
from bit_backbone.checkpoints.pretrained import config_for, remove_older_weights
from bit_backbone.checkpoints.report import listed_parts
from bit_backbone.checkpoints.sources import CONFIG_FILE, SourceLike, open_checkpoint
from bit_backbone.checkpoints.writing import (
    DETECTRON2_WRITERS,
    WRITERS,
    NamedTensors,
    Writer,
    write_safetensors,
    write_text,
    writing,
)
from bit_backbone.config import BitConfig
from bit_backbone.network import BitNetwork
from bit_backbone.utils.empty_weights import init_empty_weights
from bit_backbone.utils.progress import track


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion wrote.

    Attributes:
        source: Where the tensors came from.
        target: The file or folder that was written.
        source_format: The format of the source.
        format: The format of the target.
        architecture: The network.
        written: Names in the target.
        left_out: Names in the source that the target does not have: a head that was dropped, the
            other parts of a detector.
        part: Which of the source's networks was converted, as in ``LoadReport``.
        other_parts: The source's other networks.
    """

    source: str
    target: str
    source_format: str
    format: str
    architecture: Architecture
    written: tuple[str, ...]
    left_out: tuple[str, ...]
    part: str = ""
    other_parts: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = f", left out {len(self.left_out)} ({', '.join(self.left_out[:4])})"
        parts = f"; not taken, other parts of the file: {listed_parts(self.other_parts)}"
        return (
            f"{self.source} ({self.source_format} names, {self.architecture}) -> {self.target} "
            f"({self.format} names): {len(self.written)} tensors"
            + (left if self.left_out else "")
            + (parts if self.other_parts else "")
        )


def convert(
    source: SourceLike,
    target: str | os.PathLike[str],
    format: str,
    *,
    head: str = "keep",
    overwrite: bool = False,
    prefix: str | None = None,
    config: BitConfig | None = None,
    progress: bool = False,
    part: str | None = None,
) -> ConvertReport:
    """Writes a checkpoint in another codebase's names and layouts; no value changes.

    Args:
        source: Anything that ``load`` accepts.
        target: The file to write. Its suffix decides the kind of file. "npz": .npz. "detectron2":
            .pth or .pkl. The others: .safetensors, .pth, .pt or .bin. "transformers" without a
            suffix writes a folder with a config.json.
        format: "npz" (the official TensorFlow and Jax names), "torch" (the official PyTorch
            names), "timm", "transformers", "detectron2" or "native" (this package's).
        head: "keep" or "drop". detectron2 does not use a head, and warns if there is one.
        overwrite: Whether an existing target may be replaced.
        prefix: Prefix of every name, instead of the format's own: detectron2's
            "backbone.bottom_up." fits an FPN, "backbone." a bare backbone.
        config: The network for the config.json of a folder; None for that of the source.
        progress: Whether to show a progress bar.
        part: The network to take from a source with several, as in ``load``.

    Returns:
        What was written and left out.

    Raises:
        CheckpointError: The source is unusable or incomplete, a tensor has no name in the format,
            or the target exists or cannot be written. Nothing is written in these cases.
        ValueError: ``format``, ``head`` or the target's suffix is none of the above.
    """
    theirs, target = _format_of(format), Path(target)
    writer = _writer(theirs, target)
    with open_checkpoint(source, part=part) as checkpoint:
        check_whole(checkpoint)
        names = _renamed(checkpoint, theirs, head, prefix)
        tensors = _converted(checkpoint, theirs, names, progress)
        if writer is None:
            config = config or config_for(source, checkpoint)
            _write_folder(target, config.to_text(_class_of(names)), tensors, overwrite)
        else:
            with writing(target, overwrite=overwrite) as (path,):
                writer(path, tensors)
    return ConvertReport(
        source=checkpoint.origin,
        target=str(target),
        source_format=checkpoint.format.name,
        format=format,
        architecture=checkpoint.architecture,
        written=tuple(names.values()),
        left_out=(*(n for n in checkpoint.specs if n not in names), *checkpoint.outside),
        part=checkpoint.part,
        other_parts=checkpoint.other_parts,
    )


def _format_of(name: str) -> Format:
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def _class_of(names: Collection[str]) -> str:
    """Returns the class of the model that has tensors of these names."""
    return "BitForImageClassification" if HEAD_WEIGHT in names else "BitBackbone"


def check_whole(checkpoint: Checkpoint) -> None:
    """Checks that a checkpoint has exactly the tensors of a whole network.

    Raises:
        CheckpointError: It is not; the message lists the tensors.
    """
    try:
        config = checkpoint.architecture.to_config(num_groups=1)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.origin} contains only a part of a BiT network, "
            f"{checkpoint.architecture}: {error}"
        ) from error
    norm = config.layer_type == "preactivation" and any(
        name.startswith("norm.") or name.startswith(f"stage{len(config.depths) + 1}.0.norm1.")
        for name in checkpoint.specs
    )
    with init_empty_weights():
        network = BitNetwork(config, last=len(config.depths), norm=norm)
    report = match(Target(network), checkpoint, "keep").report
    unexpected = tuple(name for name in report.unexpected if not is_own(name))
    report = dataclasses.replace(report, unexpected=unexpected)
    if not report.complete:
        raise CheckpointError(
            f"{checkpoint.origin} contains only a part of a BiT network:\n  {report.problems()}",
            report,
        )


def _writer(theirs: Format, target: Path) -> Writer | None:
    """Returns what writes the file, or None for a folder."""
    if theirs.name == "transformers" and not target.suffix:
        return None
    writers = {
        "npz": {".npz": WRITERS[".npz"]},
        "detectron2": DETECTRON2_WRITERS,
    }.get(theirs.name) or {s: w for s, w in WRITERS.items() if s != ".npz"}
    if target.suffix not in writers:
        also = ", or none for a folder" if theirs.name == "transformers" else ""
        raise ValueError(
            f"the suffix of a {theirs.name} checkpoint must be {' or '.join(writers)}{also}, got "
            f"{target.suffix!r} in {target}"
        )
    return writers[target.suffix]


def _renamed(
    checkpoint: Checkpoint, theirs: Format, head: str, prefix: str | None
) -> dict[str, str]:
    """Returns their name of every tensor that will be written, by our name."""
    if head not in ("keep", "drop"):
        raise ValueError(f'head must be "keep" or "drop", got {head!r}')
    prefix = theirs.prefix if prefix is None else prefix
    names = {}
    for name in sorted(checkpoint.specs):  # an equal network gives an equal file
        if head == "drop" and name in HEAD:
            continue
        written = theirs.write_name(name)
        if written is not None:
            names[name] = prefix + written
        elif name != STEM_GAIN or not bool((checkpoint.read(name) == 1).all()):
            raise CheckpointError(
                f"the {theirs.name} format has no name for {name!r} of {checkpoint.origin} "
                f"({checkpoint.architecture}): convert it to transformers, detectron2 or native"
            )
    return names


def _converted(
    checkpoint: Checkpoint, theirs: Format, names: Mapping[str, str], progress: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, written in track(names.items(), "converting", enabled=progress, transient=True):
        yield written, theirs.write_tensor(name, checkpoint.read(name))


def _write_folder(folder: Path, config: str, tensors: NamedTensors, overwrite: bool) -> None:
    names = CONFIG_FILE, WEIGHT_FILES[0]
    targets = (folder / name for name in names)
    with writing(*targets, overwrite=overwrite) as (config_path, weights_path):
        write_text(config_path, config)
        write_safetensors(weights_path, tensors)
    remove_older_weights(folder, keep=set(names))
