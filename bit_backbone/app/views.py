"""The Features tab's photographs and maps, as HTML that holds its pictures in itself.

No picture of a user becomes a file on the server.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator
from html import escape
from importlib.resources import files

from bit_backbone.app.looks import Look, Row
from bit_backbone.app.photographs import within
from bit_backbone.visualization.charts import picture_uri
from bit_backbone.visualization.colours import coloured, png_bytes
from bit_backbone.visualization.similarity import best_place, contrast

CHANNELS = 5  # with the largest response
_SHOWN_SIDE, _THUMBNAIL = 960, 120

STYLE = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
PICK = files(__package__).joinpath("pick.js").read_text(encoding="utf-8")


def photograph_view(look: Look) -> str:
    """Shows the first photograph, in which pixels are clicked."""
    seen = look.rows[0].seen
    name = escape(look.first.name)
    image = f'<img src="{picture_uri(within(seen, _SHOWN_SIDE))}" alt="{name}">'
    frame = _frame(image, look.place, "data-clicked tabindex=0")
    size = f"{seen.width} x {seen.height} pixels"
    text = f"{name}: {size}, as the network sees it. Click, or use the arrow keys."
    return f"<figure>{frame}<figcaption>{text}</figcaption></figure>"


def components_view(look: Look, stages: Collection[str]) -> str:
    """Shows every map's principal components."""
    return "".join(
        f'<div class="bit-maps">{_title(row)}{"".join(_components(look, row, stages))}</div>'
        for row in look.rows
    )


def similarity_view(look: Look, stages: Collection[str]) -> str:
    """Shows the similarity of every pixel to the one at the look's place.

    Raises:
        ValueError: The place lies outside of the photograph.
    """
    return "".join(
        f'<div class="bit-maps">{_title(row)}{"".join(_similarities(look, row, stages))}</div>'
        for row in look.rows
    )


def _components(look: Look, row: Row, stages: Collection[str]) -> Iterator[str]:
    for name, stage in row.stages.items():
        if name in stages:
            units = stage.units
            size = f"{units.height} x {units.width} pixels, {units.channels} channels"
            yield _figure(look, row, stage.components, name, f"<small>{size}</small>")


def _similarities(look: Look, row: Row, stages: Collection[str]) -> Iterator[str]:
    queries = look.query(row).stages
    for name, stage in row.stages.items():
        if name not in stages:
            continue
        similarity = stage.units.similarity(queries[name].units.direction(*look.place))
        low, high = contrast(similarity)
        text = f": {low:z.2f} to {high:z.2f}"
        place = None
        if row.photograph is not look.first:
            place = best_place(similarity)
            text += f", best {float(similarity.max()):z.2f}"
        else:
            best = stage.units.strongest(*look.place, CHANNELS)
            channels = ", ".join(f"{channel} ({value:.3g})" for channel, value in best)
            text += f"<small>channels {channels}</small>"
        yield _figure(look, row, png_bytes(coloured(similarity, low, high)), name, text, place)


def _figure(
    look: Look,
    row: Row,
    png: bytes,
    name: str,
    text: str,
    place: tuple[float, float] | None = None,
) -> str:
    uri = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    # every map covers the whole photograph, though its last row or column may reach beyond
    aspect = f"aspect-ratio: {row.seen.width} / {row.seen.height}"
    alt = f"{name} of {escape(row.view.name)}"
    image = f'<img src="{uri}" alt="{alt}" data-stage="{name}" style="{aspect}">'
    is_first = row.photograph is look.first
    frame = _frame(image, place or look.place, "data-clicked" if is_first else "",
                   marked=is_first or place is not None)  # fmt: skip
    return f"<figure>{frame}<figcaption><b>{name}</b>{text}</figcaption></figure>"


def _frame(image: str, place: tuple[float, float], attributes: str, *, marked: bool = True) -> str:
    x, y = place
    marker = f'<span class="bit-marker" style="left: {100 * x:.3f}%; top: {100 * y:.3f}%"></span>'
    return f'<div class="bit-frame" {attributes}>{image}{marker if marked else ""}</div>'


def _title(row: Row) -> str:
    thumbnail = picture_uri(within(row.seen, _THUMBNAIL))
    what = f"{row.view.name}, {row.view.maps}, stride {row.view.stride}"
    text = f"<span>{escape(row.photograph.name)}<br>{escape(what)}</span>"
    return f'<h3><img src="{thumbnail}" alt="">{text}</h3>'
