"""``bit-backbone checkpoints show``: what a checkpoint holds, before any of it is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bit_backbone.checkpoints.files import TensorFile
    from bit_backbone.checkpoints.parts import Part

MIB = 2**20


@dataclass(frozen=True)
class ShownPart:
    """One network of a file.

    Attributes:
        part: What ``--part`` calls it; "" for a file that is one network.
        taken: Whether it is the one that is taken where no part is named.
        format: Whose names it has.
        network: The variant, or depths and widths.
        labels: Size of its head, 0 without one.
        dtype: Types of its tensors.
        tensors: How many.
        bytes: Their size.
    """

    part: str
    taken: bool
    format: str
    network: str
    labels: int
    dtype: str
    tensors: int
    bytes: int


def show(name: str, as_json: bool) -> None:
    """Prints every network in a checkpoint.

    Raises:
        ValueError: It cannot be found or read, or there is none in it.
    """
    from bit_backbone.checkpoints.errors import CheckpointError
    from bit_backbone.checkpoints.parts import choose, find_parts
    from bit_backbone.checkpoints.sources import locate

    with locate(name).open() as file:
        parts = find_parts(file)
        try:
            taken, undecided = choose(parts, None, file.origin), ""
        except CheckpointError as error:
            taken, undecided = None, str(error)
        rows = [_shown(file, part, part is taken) for part in parts]
    if as_json:
        content = {"origin": file.origin, "kind": file.kind, "parts": [asdict(r) for r in rows]}
        print(json.dumps(content, indent=2))
        return
    _print(file.origin, file.kind, rows)
    if undecided:
        print(undecided)


def _shown(file: TensorFile, part: Part, taken: bool) -> ShownPart:
    from bit_backbone.checkpoints.architecture import Architecture
    from bit_backbone.checkpoints.recognition import read_names

    specs = file.groups[part.group]
    names = read_names(specs, part.network, file.origin).names
    ours = {own: specs[theirs] for own, theirs in names.items()}
    shapes = {own: part.network.format.read_shape(own, spec.shape) for own, spec in ours.items()}
    network = Architecture.of_shapes(shapes)
    return ShownPart(
        part=part.name,
        taken=taken,
        format=part.network.format.name,
        network=str(network),
        labels=network.num_labels,
        dtype=", ".join(sorted({spec.dtype for spec in ours.values()})),
        tensors=len(ours),
        bytes=sum(spec.nbytes for spec in ours.values()),
    )


def _print(origin: str, kind: str, rows: list[ShownPart]) -> None:
    from rich.table import Table

    from bit_backbone.cli.output import Output

    table: Any = Table("part", "taken", "format", "network", "labels", "dtype", "tensors", "MiB")
    for row in rows:
        sizes = str(row.labels or "none"), row.dtype, str(row.tensors), f"{row.bytes / MIB:.1f}"
        table.add_row(row.part or "-", "yes" * row.taken, row.format, row.network, *sizes)
    print(f"{origin}: {kind}")
    Output.of_tables().print(table)
