"""What a detector has found in images: kept, so that another threshold needs no network."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from bit_backbone.app.networks import Detector
from bit_backbone.app.photographs import within
from bit_backbone.detection.prediction import predict, read_image
from bit_backbone.detection.results import coco_records, found_of, mask_of, run_lengths
from bit_backbone.utils.out_of_memory import fitting

# Of the image's longer side in the detector, which resizes to about this itself. What it finds is
# brought back to all of its pixels, a mask for each object: of a phone's, gigabytes.
MOST_SIDE = 1600
LEAST_SCORE = 0.05  # of what is kept; COCO's evaluation of torchvision's models begins there
COLUMNS = ("image", "class", "score", "x", "y", "width", "height")
_QUALITY = 90

Record = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What a detector or segmenter has found in an image.

    Attributes:
        name: Of the image.
        size: Its width and height.
        picture: What the detector took, at most ``MOST_SIDE`` long, as JPEG.
        records: In COCO's results format, in pixels of the picture; the ids of categories are
            labels, and a segmenter's regions have no box and no score.
    """

    name: str
    size: tuple[int, int]
    picture: bytes
    records: tuple[Record, ...]

    def kept(self, labels: Collection[int], min_score: float) -> list[Record]:
        """Returns the records of some classes with at least a score; regions have none."""
        return [
            record
            for record in self.records
            if record["category_id"] in labels and record.get("score", 1.0) >= min_score
        ]

    def drawn(self, records: Sequence[Record], categories: Sequence[str]) -> Image.Image:
        """Draws some of the records on the picture."""
        from bit_backbone.visualization.objects import draw_result  # torchvision takes a second

        image = read_image(Image.open(io.BytesIO(self.picture)), "auto")
        if records and "bbox" not in records[0]:
            semantic = torch.zeros(image.shape[-2:], dtype=torch.int64)
            for record in records:
                semantic[mask_of(record["segmentation"]) > 0] = record["category_id"]
            return draw_result(image, {"semantic": semantic}, categories)
        labels = {label: label for label in range(1, len(categories) + 1)}
        return draw_result(image, found_of(records, labels), categories, min_score=0.0)

    def in_image(self, record: Record) -> Record:
        """Returns a record in pixels of the image, as far as the picture is smaller."""
        factor = max(self.size) / max(_size_of(self.picture))
        if factor == 1:
            return dict(record)
        scaled = dict(record)
        if "bbox" in record:
            scaled["bbox"] = [factor * value for value in record["bbox"]]
        if "keypoints" in record:
            points = torch.tensor(record["keypoints"]).view(-1, 3)
            scaled["keypoints"] = (points * torch.tensor([factor, factor, 1])).flatten().tolist()
        if "segmentation" in record:
            mask = mask_of(record["segmentation"])[None, None].float()
            size = self.size[1], self.size[0]
            scaled["segmentation"] = run_lengths(F.interpolate(mask, size, mode="nearest")[0, 0])
        return scaled


def detect(detector: Detector, name: str, image: Image.Image, device: str) -> Found:
    """Runs a detector or segmenter on an image.

    Raises:
        ValueError: The image is too thin or too large for it.
    """
    smaller = within(image, MOST_SIDE)
    with fitting("the image"):
        found = predict(detector.model, read_image(smaller, "auto"), device)
    if "semantic" in found:
        records = list(_regions(found["semantic"].cpu()))
    else:
        labels = range(1, len(detector.categories) + 1)
        records = coco_records(found, 0, labels, LEAST_SCORE)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=_QUALITY)
    return Found(name, image.size, buffer.getvalue(), tuple(records))


def _regions(semantic: torch.Tensor) -> Iterator[Record]:
    for label in semantic.unique().tolist():
        if label:
            yield {"category_id": label, "segmentation": run_lengths(semantic == label)}


def _size_of(picture: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(picture)).size


def table(
    found: Sequence[Found], labels: Collection[int], min_score: float, categories: Sequence[str]
) -> list[list[Any]]:
    """Returns a row of ``COLUMNS`` for each object; regions have a name only."""
    rows = []
    for each in found:
        for record in each.kept(labels, min_score):
            name = categories[record["category_id"] - 1]
            box: Sequence[Any] = ("",) * 5
            if "bbox" in record:
                factor = max(each.size) / max(_size_of(each.picture))
                box = [round(record["score"], 4), *(round(factor * v, 1) for v in record["bbox"])]
            rows.append([each.name, name, *box])
    return rows


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Returns the rows of ``table`` as CSV, with their names."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return buffer.getvalue()


def coco_document(
    found: Sequence[Found], labels: Collection[int], min_score: float, categories: Sequence[str]
) -> dict[str, Any]:
    """Returns objects and regions as a document of COCO's, in pixels of the images."""
    images: list[Record] = []
    annotations: list[Record] = []
    for image_id, each in enumerate(found, start=1):
        width, height = each.size
        images.append({"id": image_id, "file_name": each.name, "width": width, "height": height})
        for record in each.kept(labels, min_score):
            scaled = each.in_image(record)
            annotations.append(
                {
                    **scaled,
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "area": _area(scaled),
                    "iscrowd": 0,
                }
            )
    names = [{"id": label, "name": name} for label, name in enumerate(categories, start=1)]
    return {"images": images, "categories": names, "annotations": annotations}


def _area(record: Record) -> float:
    if "segmentation" in record:
        return int(mask_of(record["segmentation"]).sum())
    return float(record["bbox"][2] * record["bbox"][3])
