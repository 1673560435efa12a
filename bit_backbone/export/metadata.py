"""What an exported file says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from bit_backbone import __version__
from bit_backbone.checkpoints import CheckpointError

KEY = "bit_backbone"  # under which every format keeps it


@dataclass(frozen=True)
class Metadata:
    """What an exported file says of itself.

    Attributes:
        task: "classification", "features", "segmentation" or "detection".
        name: Of the model, such as "fasterrcnn_bit_fpn".
        input: Name of the tensor that it takes.
        outputs: Names of those that it gives.
        categories: Names of the classes: of a classifier in order, of a detector or segmenter from
            label 1 on; empty where they are not known.
        keypoint_names: Names of the keypoints.
        preprocessing: What a BitImageProcessor has to do to an image, in JSON's terms, where the
            file does not do it; None for a detector or segmenter, which takes images in 0..1.
        with_preprocessing: Whether the file takes uint8 [H, W, 3].
        with_nms: Whether a detector's file gives detections.
        takes_batches: Whether the file takes any number of images at once.
        image_size: The only (height, width) that the file takes; None for any.
        precision: What BiT computes in.
        bit_depth: Bits used of images of more than 8 per channel.
        version: Of the package that wrote the file.
    """

    task: str
    name: str
    input: str
    outputs: tuple[str, ...]
    categories: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    preprocessing: dict[str, Any] | None = None
    with_preprocessing: bool = False
    with_nms: bool = True
    takes_batches: bool = True
    image_size: tuple[int, int] | None = None
    precision: str = "float32"
    bit_depth: int | str = "auto"
    version: str = field(default=__version__)

    def to_json(self) -> str:
        """Returns it as a line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | None, origin: str) -> Metadata:
        """Reads what ``to_json`` wrote.

        Raises:
            CheckpointError: There is none, or it is of another version.
        """
        if not text:
            raise CheckpointError(
                f"{origin} has no description: it was not written by `bit-backbone export`"
            )
        try:
            values = json.loads(text)
            lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
            metadata = cls(**values | lists)
            metadata._check_types()
            return metadata
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{origin} has a description that this version cannot read ({error!r}); "
                "export again"
            ) from error

    def _check_types(self) -> None:
        """Raises TypeError where a value is of another type than its annotation says."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not _HOLDS[str(entry.type)](value):
                raise TypeError(f"{entry.name} is {value!r}, and should be {entry.type}")


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(name, str) for name in value)


def _is_size(value: Any) -> bool:
    return value is None or (
        isinstance(value, tuple) and len(value) == 2 and all(type(side) is int for side in value)
    )


_HOLDS: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "str": lambda value: isinstance(value, str),
        "bool": lambda value: isinstance(value, bool),
        "int | str": lambda value: type(value) in (int, str),
        "dict[str, Any] | None": lambda value: value is None or isinstance(value, dict),
        "tuple[str, ...]": _is_names,
        "tuple[int, int] | None": _is_size,
    }
)
