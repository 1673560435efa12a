"""What a session looks at: photographs through networks, as maps that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from bit_backbone.app.networks import Networks, View
from bit_backbone.preprocessing.seen import as_seen
from bit_backbone.utils.out_of_memory import fitting
from bit_backbone.visualization.colours import png_bytes
from bit_backbone.visualization.feature_maps import to_picture
from bit_backbone.visualization.similarity import UnitMap

MOST_SIDE = 1333  # of the longer side; with 800 of the shorter one the size of detectors' images
CENTRE = (0.5, 0.5)


@dataclass(frozen=True)
class Photograph:
    """An image by the name that the user knows it by."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Stage:
    """A feature map: its directions, and its principal components as a PNG file."""

    units: UnitMap
    components: bytes


@dataclass(frozen=True)
class Row:
    """A photograph through a network.

    Attributes:
        photograph: The original.
        view: The network.
        short_side: To which the photograph was resized.
        seen: The photograph as the network saw it.
        stages: Its maps by their names, shallow to deep.
    """

    photograph: Photograph
    view: View
    short_side: int
    seen: Image.Image
    stages: dict[str, Stage]


@dataclass(frozen=True)
class Look:
    """All rows of a session, and the place that is compared.

    Attributes:
        rows: For each photograph, those of each network; the first photograph is the one that is
            clicked.
        place: Of the pixel, (x, y) in 0..1.
    """

    rows: tuple[Row, ...]
    place: tuple[float, float] = CENTRE

    @property
    def first(self) -> Photograph:
        """The photograph that is clicked."""
        return self.rows[0].photograph

    @property
    def second(self) -> Photograph | None:
        """The one that it is compared with."""
        last = self.rows[-1].photograph
        return None if last is self.first else last

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the maps of all rows."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.stages))

    def query(self, row: Row) -> Row:
        """Returns the row of the first photograph through the network of a row."""
        return next(r for r in self.rows if r.view == row.view and r.photograph is self.first)


def look(
    networks: Networks,
    photographs: Sequence[Photograph],
    views: Sequence[View],
    short_side: int,
    before: Look | None = None,
) -> Look:
    """Computes the maps that are not there yet.

    Args:
        networks: To take networks of.
        photographs: One or two.
        views: One or two.
        short_side: To which photographs are resized, if they are larger.
        before: What the session has looked at so far.

    Raises:
        ValueError: A network cannot be opened or does not take the photograph.
    """
    rows = []
    for photograph in photographs:
        for view in dict.fromkeys(views):
            known = [
                row for row in (before.rows if before else ())
                if row.photograph is photograph and (row.view, row.short_side) == (view, short_side)
            ]  # fmt: skip
            rows.append(known[0] if known else _row(networks, photograph, view, short_side))
    same = before is not None and before.first is photographs[0]
    return Look(tuple(rows), before.place if before is not None and same else CENTRE)


def _row(networks: Networks, photograph: Photograph, view: View, short_side: int) -> Row:
    backbone = networks.backbone(view)
    with fitting("the photograph"), torch.inference_mode():
        seen, pixels = as_seen(photograph.image, _side(photograph.image.size, short_side))
        features = backbone(pixels.to(next(backbone.parameters())))
        stages = {name: _stage(feature[0].float().cpu()) for name, feature in features.items()}
    return Row(photograph, view, short_side, seen, stages)


def _side(size: tuple[int, int], short_side: int) -> int:
    """Returns the shorter side that neither enlarges an image nor makes its longer one too long."""
    shorter, longer = sorted(size)
    return max(1, min(short_side, shorter, MOST_SIDE * shorter // longer))


def _stage(feature: torch.Tensor) -> Stage:
    size = feature.shape[-2], feature.shape[-1]
    return Stage(UnitMap.of(feature), png_bytes(to_picture(feature, size)))
