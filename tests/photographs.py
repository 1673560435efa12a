"""Real photographs of many kinds and odd sizes, out of installed packages."""

from functools import cache
from importlib.resources import files

from PIL import Image

_SOURCES = {
    "china": ("sklearn.datasets", "images/china.jpg"),  # 640x427
    "flower": ("sklearn.datasets", "images/flower.jpg"),
    "chelsea": ("skimage", "data/chelsea.png"),  # 451x300
    "color": ("skimage", "data/color.png"),  # 371x370
    "retina": ("skimage", "data/retina.jpg"),  # 1411x1411
    "page": ("skimage", "data/page.png"),  # grey, 384x191
    "coins": ("skimage", "data/coins.png"),  # grey, 384x303
    "horse": ("skimage", "data/horse.png"),  # RGBA, 400x328
    "logo": ("skimage", "data/logo.png"),  # RGBA, 500x500, soft edges
    "gif": ("skimage", "data/no_time_for_that_tiny.gif"),  # palette, 14x25
}


@cache
def photograph(name: str) -> Image.Image:
    """Opens one by name; "palette", "palette_alpha", "bilevel", "cmyk", "la" are made from others.

    A "name@WxH" is cut to that size from the upper left corner.
    """
    name, _, cut = name.partition("@")
    image = _derived(name) if name not in _SOURCES else _load(*_SOURCES[name])
    if cut:
        width, height = map(int, cut.split("x"))
        image = image.crop((0, 0, width, height))
    return image


def _load(package: str, path: str) -> Image.Image:
    with files(package).joinpath(path).open("rb") as stream:
        image = Image.open(stream)
        image.load()
    return image


def _derived(name: str) -> Image.Image:
    if name == "palette":
        return photograph("chelsea").convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
    if name == "palette_alpha":
        image = photograph("palette").copy()
        image.info["transparency"] = 3
        return image
    if name == "bilevel":
        return photograph("page").convert("1")
    if name == "cmyk":
        return photograph("flower").convert("CMYK")
    if name == "la":
        return photograph("logo").convert("LA")
    raise KeyError(name)
