"""The Detect tab: what a detector finds, at any threshold, in one image or in many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from bit_backbone.app.detections import (
    COLUMNS,
    LEAST_SCORE,
    Found,
    coco_document,
    csv_text,
    detect,
    table,
)
from bit_backbone.app.networks import Networks
from bit_backbone.app.photographs import Gallery
from bit_backbone.app.uploads import new_file, shows_messages, take_upload, warn
from bit_backbone.utils.image_files import IMAGE_SUFFIXES

MOST_IMAGES = 500  # in a row
MIN_SCORE = 0.5
NETWORK = "network"  # as in the Features tab: one forward pass at a time
NONE = (
    "Detectors and segmenters are trained by `bit-backbone train`; start the page with "
    "`--weights` and the folder of a run."
)
ABOUT = (
    "The threshold and the classes choose among what was found; the network does not run again. "
    f"Objects with a score below {LEAST_SCORE} are not kept."
)

# A hidden button downloads the file that the visible one has asked for.
_PRESS = "() => setTimeout(() => document.querySelector('#%s').click(), 100)"


@dataclass(frozen=True)
class Detections:
    """What a session has found.

    Attributes:
        categories: Names of the detector's classes.
        found: For each image.
    """

    categories: tuple[str, ...]
    found: tuple[Found, ...]

    def labels(self, names: Iterable[str]) -> set[int]:
        """Returns the labels of some of the classes."""
        wanted = set(names)
        return {label for label, name in enumerate(self.categories, 1) if name in wanted}


def detect_tab(networks: Networks, gallery: Gallery) -> None:
    """Builds the tab and connects its parts."""
    names = networks.detectors
    if not names:
        gr.Markdown(NONE)
        return
    state = gr.State(None)
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            detector = gr.Dropdown(names, value=names[0], label="Detector")
            name = gr.Dropdown(gallery.names, value=None, label="Image to detect in")
            upload = gr.UploadButton(
                "Upload images", file_types=list(IMAGE_SUFFIXES), file_count="multiple", size="sm"
            )
            count = len(gallery.own)
            folder = gr.Button(f"All {count} of the folder", size="sm", visible=count > 0)
            threshold = gr.Slider(0, 1, MIN_SCORE, step=0.01, label="Threshold")
            classes = gr.CheckboxGroup([], label="Classes", visible=False)
            get_json, json_file = _download_buttons("Download COCO JSON", "bit-json")
            get_csv, csv_file = _download_buttons("Download CSV", "bit-csv")
        with gr.Column(scale=3):
            which = gr.Dropdown([], label="Show", visible=False)
            picture = gr.Image(format="jpeg", label="Found", interactive=False, elem_id="bit-found",
                               buttons=["download", "fullscreen"])  # fmt: skip
            rows = gr.Dataframe(headers=list(COLUMNS), interactive=False, max_height=360,
                                elem_id="bit-objects")  # fmt: skip
    events = _Events(networks, gallery)
    made = [state, which, classes, picture, rows]
    heavy: dict[str, Any] = {
        "concurrency_id": NETWORK,
        "api_visibility": "private",
        "show_progress_on": picture,
    }
    chosen = [name, detector, threshold]
    gr.on([name.select, detector.select], events.choose, chosen, made, **heavy)
    upload.upload(events.upload, [upload, detector, threshold], made, **heavy)
    folder.click(events.folder, [detector, threshold], made, **heavy)
    light: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    kept = [state, which, threshold, classes]
    gr.on([threshold.change, classes.input, which.select], events.show, kept, [picture, rows],
          trigger_mode="always_last", **light)  # fmt: skip
    for button, hidden, make in (
        (get_json, json_file, events.json),
        (get_csv, csv_file, events.csv),
    ):
        pressed = button.click(make, [state, threshold, classes], hidden, **light)
        pressed.success(None, None, None, js=_PRESS % hidden.elem_id, **light)


def _download_buttons(label: str, elem_id: str) -> tuple[Any, Any]:
    return gr.Button(label, size="sm"), gr.DownloadButton(visible="hidden", elem_id=elem_id)


class _Events:
    """What happens, with the networks and photographs of the page."""

    def __init__(self, networks: Networks, gallery: Gallery) -> None:
        self.networks, self.gallery = networks, gallery

    @shows_messages
    def choose(self, name: str | None, detector: str, threshold: float) -> Any:
        if name is None:
            return gr.skip()
        return self._run({name: self.gallery.read}, detector, threshold, None)

    @shows_messages
    def upload(
        self,
        paths: list[str],
        detector: str,
        threshold: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio finds it)
    ) -> Any:
        def taken(path: str, bit_depth: Any) -> Image.Image:
            return take_upload(path, bit_depth)[1]

        return self._run(dict.fromkeys(paths, taken), detector, threshold, progress)

    @shows_messages
    def folder(
        self,
        detector: str,
        threshold: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        reads = dict.fromkeys(self.gallery.own, self.gallery.read)
        return self._run(reads, detector, threshold, progress)

    def _run(
        self,
        images: Mapping[str, Callable[[str, Any], Image.Image]],
        name: str,
        threshold: float,
        progress: gr.Progress | None,
    ) -> Any:
        """Detects in every image that can be read, and shows the first."""
        if len(images) > MOST_IMAGES:
            raise ValueError(f"a row has at most {MOST_IMAGES} images, got {len(images)}")
        detector = self.networks.detector(name)
        found, skipped = [], []
        for number, (path, read) in enumerate(images.items()):
            short = path.rpartition("/")[2]
            if progress is not None:
                progress((number, len(images)), desc=short, unit="images")
            try:
                image = read(path, detector.bit_depth)
                found.append(detect(detector, short, image, self.networks.device))
            except (OSError, ValueError) as error:
                skipped.append(f"{short}: {error}")
        if not found:
            raise ValueError("; ".join(skipped))
        if skipped:
            warn(f"{len(skipped)} of {len(images)} images were skipped; {skipped[0]}")
        detections = Detections(detector.categories, tuple(found))
        classes = list(detector.categories)
        choices = [(each.name, index) for index, each in enumerate(found)]
        return [
            detections,
            gr.Dropdown(choices, value=0, visible=len(found) > 1),
            gr.CheckboxGroup(classes, value=classes, visible=True),
            *self._shown(detections, 0, threshold, classes),
        ]

    @shows_messages
    def show(
        self, state: Detections | None, which: int | None, threshold: float, classes: list[str]
    ) -> Any:
        if state is None:
            return gr.skip()
        return self._shown(state, which or 0, threshold, classes)

    def _shown(self, state: Detections, which: int, threshold: float, classes: list[str]) -> Any:
        labels = state.labels(classes)
        each = state.found[which]
        picture = each.drawn(each.kept(labels, threshold), state.categories)
        return picture, table(state.found, labels, threshold, state.categories)

    @shows_messages
    def json(self, state: Detections | None, threshold: float, classes: list[str]) -> Any:
        state = _made(state)
        labels = state.labels(classes)
        document = coco_document(state.found, labels, threshold, state.categories)
        return new_file("detections.json", json.dumps(document))

    @shows_messages
    def csv(self, state: Detections | None, threshold: float, classes: list[str]) -> Any:
        state = _made(state)
        rows = table(state.found, state.labels(classes), threshold, state.categories)
        return new_file("detections.csv", csv_text(rows))


def _made(state: Detections | None) -> Detections:
    if state is None:
        raise ValueError("nothing was detected yet; choose an image")
    return state
