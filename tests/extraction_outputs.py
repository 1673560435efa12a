"""Folders of real image files to extract from, and reading outputs without our code."""

import io
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
from photographs import photograph

from bit_backbone.extraction.run import native_size
from bit_backbone.extraction.settings import OutputSettings

SHORT_SIDE = 48
PROCESSOR = native_size().replace(do_resize=True, size=SHORT_SIDE, resample="bilinear")
# Several sizes, two files of one stem, a dotted name, CMYK, alpha, grey, a palette, a GIF.
IMAGES = {
    "china@96x64": "a/one.jpg",
    "flower@96x64": "a/one.png",
    "chelsea@96x64": "b/one.jpg",
    "page@64x96": "b/two.v2.png",
    "horse@70x70": "b/__deep__/horse.png",
    "cmyk": "c/cmyk.jpg",
    "palette@50x49": "c/palette.png",
    "gif": "c/moving.gif",
    "coins@96x64": "d with space/größe.PNG",
    "color@90x90": "z.webp",
}


def write_images(root, images=IMAGES):
    for name, path in images.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        photograph(name).save(target)
    return root


def write_many(root, count, sizes=((24, 24), (24, 36), (36, 24))):
    """Small PNG files, each another picture."""
    root.mkdir(parents=True, exist_ok=True)
    china = photograph("china")
    for index in range(count):
        width, height = sizes[index % len(sizes)]
        left, top = 7 * index % 600, 5 * index % 380
        china.crop((left, top, left + width, top + height)).save(root / f"{index:05d}.png")
    return root


def maps_in(folder):
    """Every map in the shards of a folder, read by tarfile and numpy: {key: {stage: array}}."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as shard:
            for member in shard:
                key, stage, _ = member.name.rsplit(".", 2)
                assert stage not in found.setdefault(key, {}), f"{member.name} is there twice"
                found[key][stage] = np.load(io.BytesIO(shard.extractfile(member).read()))
    return found


def vectors_in(folder):
    """The table of a folder, read by pyarrow: {key: {stage: vector}}."""
    rows = pq.read_table(folder / "vectors").to_pylist()
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: {name: row[name] for name in row if name[:5] == "stage"} for row in rows}


def failures_in(folder):
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]


def pooled(**settings):
    return OutputSettings(pool="avg", **settings)
