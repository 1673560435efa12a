"""The data set that torchvision's detectors train on."""

import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from pycocotools.coco import COCO
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms import v2

from bit_backbone.datasets import AnnotationError, CocoFolder, DigitScenes, build_scenes
from bit_backbone.utils.extras import MissingExtraError
from bit_backbone.utils.unreadable import UnreadableImageError


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "train"
    build_scenes(DigitScenes(num_images=6, image_size=(112, 120), num_objects=(0, 4)), folder)
    return folder


def test_an_item_of_a_hand_written_file(coco_files) -> None:
    folder = CocoFolder(coco_files.write(), masks=True, keypoints=True)
    image, target = folder[0]
    assert (image.dtype, image.shape) == (torch.float32, (3, 30, 40))
    assert torch.allclose(image[:, 0, 0] * 255, torch.tensor([0.0, 128, 128]))
    expected = {
        "boxes": torch.tensor([[5.0, 6, 15, 18], [0, 0, 40, 30]]),
        "labels": torch.tensor([2, 1]),
        "area": torch.tensor([60.0, 1200]),
        "iscrowd": torch.tensor([0, 0]),
        "keypoints": torch.tensor([[[6.0, 7, 2], [14, 17, 1]], [[0, 0, 0], [20, 10, 2]]]),
    }
    for key, value in expected.items():
        assert target[key].dtype == value.dtype, key
        assert torch.equal(target[key], value), key
    assert target["image_id"] == 7
    assert (target["masks"].dtype, target["masks"].shape) == (torch.uint8, (2, 30, 40))
    assert target["masks"][1].sum() == 600
    assert folder.categories == ("cat", "dog")
    assert folder.category_ids == (3, 90)
    assert folder.keypoint_names == ("nose", "tail")


def test_an_image_without_objects(coco_files) -> None:
    target = CocoFolder(coco_files.write(), masks=True, keypoints=True)[1][1]
    shapes = {k: tuple(v.shape) for k, v in target.items() if k != "image_id"}
    assert shapes == {
        "boxes": (0, 4),
        "labels": (0,),
        "area": (0,),
        "iscrowd": (0,),
        "masks": (0, 30, 40),
        "keypoints": (0, 2, 3),
    }
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64


def test_masks_boxes_and_labels_agree_with_pycocotools(digits) -> None:
    folder = CocoFolder(digits, masks=True)
    coco = COCO(digits / "instances.json")
    for _, target in folder:
        annotations = coco.loadAnns(coco.getAnnIds(target["image_id"]))
        assert target["labels"].tolist() == [a["category_id"] for a in annotations]
        for mask, box, annotation in zip(
            target["masks"], target["boxes"], annotations, strict=True
        ):
            assert np.array_equal(mask, coco.annToMask(annotation))
            rows, columns = mask.nonzero().T
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == corners


def test_sizes_are_known_without_opening_an_image(digits, monkeypatch) -> None:
    folder = CocoFolder(digits)
    monkeypatch.setattr(Image, "open", None)
    assert folder.aspect_ratios() == [120 / 112] * 6
    assert folder.get_height_and_width(5) == (112, 120)


def collate(batch):
    return tuple(zip(*batch, strict=True))


def test_a_detector_takes_what_worker_processes_deliver(digits) -> None:
    loader = torch.utils.data.DataLoader(
        CocoFolder(digits, masks=True, keypoints=True),
        batch_size=6,
        num_workers=1,
        multiprocessing_context="spawn",
        collate_fn=collate,
    )
    images, targets = next(iter(loader))
    backbone = torch.nn.Conv2d(3, 8, 16, stride=16)
    backbone.out_channels = 8
    model = KeypointRCNN(
        backbone,
        min_size=64,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        keypoint_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        keypoint_head=torch.nn.Identity(),
        keypoint_predictor=torch.nn.ConvTranspose2d(8, 4, 4, 2, 1),
        box_head=torch.nn.Flatten(),
        box_predictor=FastRCNNPredictor(8 * 49, 11),
    )
    losses = model(list(images), list(targets))
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_keypoint"] > 0


def test_it_pickles(digits) -> None:
    folder = CocoFolder(digits, masks=True)
    again = pickle.loads(pickle.dumps(folder))
    assert torch.equal(folder[2][1]["masks"], again[2][1]["masks"])


def test_boxes_are_clipped_to_the_image(coco_files) -> None:
    coco_files.content["annotations"][0]["bbox"] = [-0.5, -1, 41, 31.5]
    box = CocoFolder(coco_files.write())[0][1]["boxes"][0]
    assert box.tolist() == [0, 0, 40, 30]


def test_crowds_are_left_out_unless_asked_for(coco_files) -> None:
    coco_files.content["annotations"][1]["iscrowd"] = 1
    root = coco_files.write()
    assert CocoFolder(root)[0][1]["labels"].tolist() == [2]
    target = CocoFolder(root, include_crowd=True, keypoints=True)[0][1]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["keypoints"][1].abs().sum() == 0


def test_transforms_move_boxes_masks_and_keypoints_together(coco_files) -> None:
    root = coco_files.write()
    plain = CocoFolder(root, masks=True, keypoints=True)[0]
    flipped = CocoFolder(root, masks=True, keypoints=True, transforms=v2.RandomHorizontalFlip(p=1))[
        0
    ]
    assert torch.equal(flipped[0], plain[0].flip(-1))
    assert torch.equal(flipped[1]["masks"], plain[1]["masks"].flip(-1))
    assert flipped[1]["boxes"][0].tolist() == [25, 6, 35, 18]
    assert flipped[1]["keypoints"][0].tolist() == [[33, 7, 2], [25, 17, 1]]
    values = [flipped[0], *(v for v in flipped[1].values() if isinstance(v, torch.Tensor))]
    assert {type(value) for value in values} == {torch.Tensor}


def test_objects_that_a_transform_crops_away_are_dropped(coco_files) -> None:
    def crop_right_half(image, target):
        return v2.functional.crop(image, 0, 20, 30, 20), {
            k: v2.functional.crop(v, 0, 20, 30, 20) if k in ("boxes", "masks", "keypoints") else v
            for k, v in target.items()
        }

    folder = CocoFolder(coco_files.write(), masks=True, keypoints=True, transforms=crop_right_half)
    image, target = folder[0]
    assert image.shape == (3, 30, 20)
    assert target["boxes"].tolist() == [[0, 0, 20, 30]]
    assert target["labels"].tolist() == [1]
    assert {len(v) for v in target.values() if isinstance(v, torch.Tensor)} == {1}


def save_grey(path) -> None:
    Image.new("L", (40, 30), 51).save(path)


def save_palette(path) -> None:
    Image.new("RGB", (40, 30), (51, 51, 51)).convert("P").save(path)


def save_turned(path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.new("RGB", (30, 40), (51, 51, 51)).save(path, exif=exif)


def save_floats(path) -> None:
    Image.fromarray(np.full((30, 40), 0.2, np.float32)).save(path, format="TIFF")


def save_turned_tiff(path) -> None:
    Image.new("RGB", (30, 40), (51, 51, 51)).save(path, "TIFF", tiffinfo={0x0112: 6})


def save_late_exif(path) -> None:
    """Save a PNG whose orientation stands behind the pixels."""
    save_turned(path)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])


SAVERS = [save_grey, save_palette, save_turned, save_floats, save_turned_tiff, save_late_exif]


@pytest.mark.parametrize("save", SAVERS)
def test_images_of_other_modes_and_orientations(save, coco_files) -> None:
    save(coco_files.images / "a.png")
    image, _ = CocoFolder(coco_files.write())[0]
    assert image.shape == (3, 30, 40)
    assert torch.allclose(image, torch.tensor(0.2))


@pytest.mark.parametrize("save", [save_turned, save_floats, save_turned_tiff])
def test_a_size_annotated_as_the_pixels_lie_is_told_before_any_is_read(save, coco_files) -> None:
    save(coco_files.images / "a.png")
    upright = CocoFolder(coco_files.write())[0][0].shape[:0:-1]
    coco_files.content["images"][0] |= {"width": upright[1], "height": upright[0]}
    coco_files.write()
    message = r"a.png \(image 7\): wrong size: annotated as 30x40, the file is 40x30 when turned"
    with pytest.raises(AnnotationError, match=message):
        CocoFolder(coco_files.root)
    folder = CocoFolder(coco_files.root, on_invalid="skip")
    assert [problem.kind for problem in folder.problems] == ["wrong size"]
    assert [folder.file_name(i) for i in range(len(folder))] == ["b.png"]


def test_sizes_are_found_without_decoding_an_image(coco_files, monkeypatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert len(CocoFolder(coco_files.write())) == 2


def test_a_size_that_has_changed_since_is_told(coco_files) -> None:
    folder = CocoFolder(coco_files.write())
    Image.new("RGB", (31, 40)).save(coco_files.images / "a.png")
    message = r"a.png \(image 7\): wrong size: annotated as 40x30, the file is 31x40\n"
    with pytest.raises(AnnotationError, match=message):
        folder[0]


@pytest.mark.parametrize("keep", [0, 60])
def test_a_broken_image_is_told_with_its_id_and_path(keep, coco_files) -> None:
    path = coco_files.images / "a.png"
    path.write_bytes(path.read_bytes()[:keep])
    folder = CocoFolder(coco_files.write())
    with pytest.raises(OSError, match=r"image 7, .*images/a.png, cannot be read: "):
        folder[0]


def test_an_image_of_16_bits_is_scaled(coco_files) -> None:
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(coco_files.images / "a.png")
    root = coco_files.write()
    assert CocoFolder(root)[0][0].unique().tolist() == pytest.approx([156 / 255])
    with pytest.raises(OSError, match=r"image 7, .*a.png, cannot be read: 12 bits are at most"):
        CocoFolder(root, bit_depth=12)[0]


def test_categories_with_other_keypoints_are_rejected(coco_files) -> None:
    coco_files.content["categories"][0]["keypoints"] = ["nose"]
    coco_files.content["annotations"] = []
    with pytest.raises(ValueError, match="all name the same number of keypoints; got"):
        CocoFolder(coco_files.write(), keypoints=True)


def test_polygons_need_pycocotools_and_run_lengths_do_not(coco_files, digits, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    assert len(CocoFolder(digits, masks=True)[0]) == 2
    CocoFolder(coco_files.write())
    with pytest.raises(MissingExtraError, match=r'masks .* polygons needs pycocotools.*\[demo\]"'):
        CocoFolder(coco_files.write(), masks=True)


def test_masks_that_the_memory_cannot_hold(coco_files, monkeypatch):
    """A picture of 12 megapixels with 1000 polygons would take 12 GB."""
    monkeypatch.setattr("bit_backbone.datasets.coco.folder.available_bytes", lambda: 1000)
    folder = CocoFolder(coco_files.write(), masks=True)
    with pytest.raises(UnreadableImageError, match=r"masks of \d objects on .* make it smaller"):
        folder[0]
    assert len(CocoFolder(coco_files.write())[0]) == 2


@pytest.fixture
def turned(coco_files):
    """A photograph of a phone: stored as 40x30, to be seen as 30x40, and annotated as stored."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[6:18, 5:15] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(coco_files.images / "a.png", exif=exif)
    return coco_files


def test_annotations_of_stored_pixels_are_taken_as_they_are(turned) -> None:
    with pytest.raises(AnnotationError, match=r'EXIF orientation.*pass exif="stored" if it was'):
        CocoFolder(turned.write())
    folder = CocoFolder(turned.root, exif="stored", masks=True)
    image, target = folder[0]
    left, top, right, bottom = target["boxes"][0].int().tolist()
    assert image.shape == (3, 30, 40)
    assert image[:, top:bottom, left:right].eq(1).all()
    assert image.mean() == pytest.approx(120 / 1200)


def test_missing_sizes_are_those_of_the_images_as_they_are_taken(turned) -> None:
    record = turned.content["images"][0]
    del record["width"], record["height"]
    turned.content["annotations"] = []
    for exif, ratio in (("stored", 40 / 30), ("upright", 30 / 40)):
        assert CocoFolder(turned.write(), exif=exif).aspect_ratios()[0] == ratio


def test_an_orientation_that_is_none(coco_files) -> None:
    with pytest.raises(ValueError, match='exif should be one of "upright", "stored"; got \'left\''):
        CocoFolder(coco_files.write(), exif="left")
