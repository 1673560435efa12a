"""A single-file page that shows how similar the pixels of an image are to each other."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from PIL import Image
from torch import Tensor

from bit_backbone.visualization.charts import picture_uri
from bit_backbone.visualization.colours import SEQUENTIAL, png_bytes
from bit_backbone.visualization.feature_maps import to_picture
from bit_backbone.visualization.packed_maps import TOLERANCE, PackedMap, pack
from bit_backbone.visualization.similarity import UNCLIPPED, UnitMap

MOST_BYTES = 8_000_000  # of a page: mail servers still accept it
_MOST_SIDE = 1280  # of the photograph in the page


def explorer_page(
    picture: Image.Image, features: Mapping[str, Tensor], *, title: str, about: str = ""
) -> str:
    """Returns a page of HTML that works offline and needs no other file.

    The page shows the principal components of every map. When a pixel is clicked, the page computes
    the cosine similarity of all others to it.

    Args:
        picture: The image as the network saw it.
        features: Maps [C, H, W] by name, shallow to deep.
        title: Title of the page.
        about: First sentence of the page, in plain text.

    Raises:
        ValueError: The maps do not fit into a page of 8 MB if similarities may differ by at most
            0.02 from the network's, or one is not a feature map.
    """
    packed = {name: pack(UnitMap.of(feature)) for name, feature in features.items()}
    _check_errors(packed)
    shown = picture.copy()
    shown.thumbnail((_MOST_SIDE, _MOST_SIDE))
    data = {
        "photograph": picture_uri(shown),
        "aspect": picture.width / picture.height,
        "unclipped": UNCLIPPED,
        "scale": _text(SEQUENTIAL.tobytes()),
        "maps": [_map(name, each, features[name]) for name, each in packed.items()],
    }
    page = files(__package__).joinpath("explorer.html").read_text(encoding="utf-8")
    # "</script>" would end the element that holds the data
    content = json.dumps(data).replace("</", "<\\/")
    values = {"@TITLE@": escape(title), "@ABOUT@": escape(about), "@DATA@": content}
    page = re.sub("|".join(values), lambda found: values[found.group()], page)
    if len(page) > MOST_BYTES:
        raise ValueError(
            f"a page takes at most {MOST_BYTES / 1e6:g} MB, got {len(page) / 1e6:.1f} MB of "
            + ", ".join(f"{name} ({each.height} x {each.width})" for name, each in packed.items())
            + ": make the image smaller, or leave out the largest map"
        )
    return page


def _check_errors(packed: Mapping[str, PackedMap]) -> None:
    for name, each in packed.items():
        if each.error > TOLERANCE:
            raise ValueError(
                f"similarities of a page differ by at most {TOLERANCE} from the network's, and "
                f"those of {name} by {each.error:.3f}: leave that map out"
            )


def _map(name: str, packed: PackedMap, feature: Tensor) -> dict[str, Any]:
    components = to_picture(feature, (packed.height, packed.width))
    return {
        "name": name,
        "height": packed.height,
        "width": packed.width,
        "channels": packed.channels,
        "count": packed.components,
        "codes": _text(packed.codes),
        "components": f"data:image/png;base64,{_text(png_bytes(components))}",
    }


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
