"""Writing DigitScenes as a COCO-format folder."""

import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from bit_backbone.datasets.digits.preview import contact_sheet
from bit_backbone.datasets.digits.records import annotation_records, document, image_record
from bit_backbone.datasets.digits.scenes import DigitScenes
from bit_backbone.datasets.digits.workspace import publish, workspace, write_synced
from bit_backbone.utils.files import read_json
from bit_backbone.utils.progress import track
from bit_backbone.utils.workers import serve_parent

# Increased when equal arguments draw different scenes than before, so old folders are not reused.
DRAWING = 1
PREVIEWED = 12
MANIFEST = "manifest.json"
WAY_OUT = "choose another folder or remove this one"


class _Written(NamedTuple):
    """A worker's report of a written scene."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    left_out: int
    digest: bytes


def build_scenes(
    scenes: DigitScenes, output: str | os.PathLike[str], *, workers: int = 1, quiet: bool = True
) -> dict[str, Any]:
    """Writes scenes as a COCO-format folder, unless the folder already holds them.

    The folder holds ``images/000000.jpg`` ..., ``instances.json`` (boxes, masks as uncompressed
    RLE, and four keypoints a digit), ``semantic/000000.png`` ... (the category's id at each pixel,
    0 for background), ``preview.jpg`` and ``manifest.json``. The folder gets its name only when it
    is complete, and its bytes depend only on the arguments of ``scenes``.

    Args:
        scenes: The scenes to draw.
        output: The folder to make; its parents are made too, and links are followed.
        workers: Number of drawing processes. In a script, more than one needs the usual
            ``__main__`` guard.
        quiet: Whether to hide the progress bar.

    Returns:
        The manifest: arguments, numbers of images, objects and objects left out, and a digest of
        images and annotations.

    Raises:
        ValueError: ``output`` holds something else or is a mount point, or ``workers`` is less
            than 1.
        MissingExtraError: scikit-learn or scikit-image is missing.
        OSError: The folder cannot be written.
    """
    target = Path(os.path.realpath(output))  # a folder cannot be renamed to a link
    if workers < 1:
        raise ValueError(f"workers should be at least 1; got {workers}")
    if manifest := _finished(target, scenes):
        return manifest
    if os.path.ismount(target):
        raise ValueError(
            "the scenes cannot be written to a mount point, which cannot be replaced by the "
            f"finished folder; got {target}: name a folder in it"
        )
    with workspace(target) as folder:
        # Another process may have built the same scenes while this one waited for the workspace.
        if manifest := _finished(target, scenes):
            return manifest
        manifest = _fill(folder, scenes, workers, quiet)
        publish(folder, target)
    return manifest


def holds_scenes(folder: Path) -> bool:
    """Whether ``build_scenes`` has finished this folder."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return False
    return {"drawing", "arguments"} <= manifest.keys()


def _finished(target: Path, scenes: DigitScenes) -> dict[str, Any] | None:
    """Returns the manifest of a finished build of these scenes; None if there is nothing yet."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        manifest: dict[str, Any] = json.loads((target / MANIFEST).read_text())
        found = {"drawing": manifest["drawing"], **manifest["arguments"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{target} exists and is not a folder of DigitScenes; {WAY_OUT}") from None
    asked = {"drawing": DRAWING, **scenes.arguments()}
    differing = [f"{k} {found.get(k)}, asked {v}" for k, v in asked.items() if found.get(k) != v]
    if differing:
        raise ValueError(
            f"{target} contains scenes made with other settings ({'; '.join(differing)}); {WAY_OUT}"
        )
    missing = [name for name in _file_names(len(scenes)) if not (target / name).is_file()]
    if missing:
        raise ValueError(f"{target} has lost {len(missing)} files ({missing[0]} ...); {WAY_OUT}")
    return manifest


def _file_names(count: int) -> Iterator[str]:
    yield "instances.json"
    for index in range(count):
        yield f"images/{index:06}.jpg"
        yield f"semantic/{index:06}.png"


def _fill(folder: Path, scenes: DigitScenes, workers: int, quiet: bool) -> dict[str, Any]:
    """Writes every file of the data set, the manifest last, and returns the manifest."""
    for name in ("images", "semantic"):
        (folder / name).mkdir()
    with _mapper(workers) as mapper:
        drawn = mapper(partial(_write_scene, scenes, folder), range(len(scenes)))
        written: list[_Written] = list(track(drawn, "drawing", len(scenes), enabled=not quiet))
    annotations = [record for scene in written for record in scene.annotations]
    instances = _dump(document([scene.image for scene in written], annotations))
    write_synced(folder / "instances.json", instances)
    write_synced(folder / "preview.jpg", _jpeg(contact_sheet(scenes, PREVIEWED)))
    digest = hashlib.sha256(instances + b"".join(scene.digest for scene in written))
    manifest = {
        "drawing": DRAWING,
        "arguments": scenes.arguments(),
        "images": len(written),
        "objects": len(annotations),
        "left_out": sum(scene.left_out for scene in written),
        "sha256": digest.hexdigest(),
    }
    write_synced(folder / MANIFEST, _dump(manifest, indent=2))
    return manifest


def _write_scene(scenes: DigitScenes, folder: Path, index: int) -> _Written:
    scene = scenes[index]
    photo = _jpeg(Image.fromarray(scene.image))
    semantic = _png(Image.fromarray(scene.semantic))
    write_synced(folder / "images" / f"{index:06}.jpg", photo)
    write_synced(folder / "semantic" / f"{index:06}.png", semantic)
    image_id = index + 1
    return _Written(
        image_record(scene, image_id, f"{index:06}.jpg"),
        annotation_records(scene, image_id),
        scene.left_out,
        hashlib.sha256(photo + semantic).digest(),
    )


@contextmanager
def _mapper(workers: int) -> Iterator[Any]:
    """Yields a ``map`` that uses ``workers`` processes, or the built-in one for one worker."""
    if workers == 1:
        yield map
        return
    # Forking a process in which torch runs threads can deadlock; spawning is safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=serve_parent) as pool:
        yield partial(pool.map, chunksize=8)


def _jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    # Subsampling 0 is 4:4:4, because the digits' edges are edges of colour.
    picture.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _dump(value: Any, indent: int | None = None) -> bytes:
    separators = (",", ":") if indent is None else None
    return (json.dumps(value, indent=indent, separators=separators) + "\n").encode()
