"""The Classify tab: the most probable classes, and the pixels that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from bit_backbone.app.networks import Networks
from bit_backbone.app.photographs import Gallery
from bit_backbone.app.uploads import shows_messages, take_upload
from bit_backbone.finetune.evidence import evidence
from bit_backbone.preprocessing.seen import picture_of
from bit_backbone.utils.image_files import IMAGE_SUFFIXES
from bit_backbone.utils.out_of_memory import fitting
from bit_backbone.visualization.colours import DIVERGING, coloured

TOP = 5
NETWORK = "network"  # as in the Features tab: one forward pass at a time
LEAST_SIDE = 448  # of the picture that is shown
OPACITY = 0.75  # of the largest contribution's colour
NONE = (
    "Classifiers are published names such as `BiT-M-R50x1-ILSVRC2012`, and what `bit-backbone "
    "finetune` makes; start the page with `--weights` and one of them."
)
ABOUT = (
    "The map shows what each pixel of the last stage adds to the logit of a class: red for it, "
    "blue against it. The sum of all pixels and the head's bias is the logit, exactly."
)


@dataclass(frozen=True)
class Answer:
    """A classified image.

    Attributes:
        seen: The image as the network saw it.
        names: Of the most probable classes, best first.
        probabilities: Of each.
        logits: Of each.
        biases: Of the head, for each.
        contributions: Of each pixel of the last stage to each logit, [TOP, H, W].
    """

    seen: Image.Image
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: tuple[float, ...]
    biases: tuple[float, ...]
    contributions: Tensor


def classify(networks: Networks, name: str, image: Image.Image) -> Answer:
    """Classifies an image.

    Raises:
        ValueError: The checkpoint cannot be read, or the image is too large.
    """
    opened = networks.classifier(name)
    with fitting("the image"):
        pixels = opened.processor(image, return_tensors="pt")["pixel_values"]
        found = evidence(opened.model, pixels)
    probabilities = found.logits.softmax(0)
    best = probabilities.topk(min(TOP, len(probabilities))).indices.tolist()
    maps = torch.stack([found.contributions(label) for label in best])
    return Answer(
        picture_of(pixels[0], opened.processor),
        # several classes may have one name: ImageNet has two cranes
        tuple(f"{rank}. {opened.names[label]}" for rank, label in enumerate(best, start=1)),
        tuple(probabilities[best].tolist()),
        tuple(found.logits[best].tolist()),
        tuple(found.bias[best].tolist()),
        maps,
    )


def evidence_picture(seen: Image.Image, contributions: Tensor) -> Image.Image:
    """Draws contributions [H, W] over a grey picture: the larger they are, the stronger."""
    zoom = max(1, -(-LEAST_SIDE // min(seen.size)))
    size = seen.width * zoom, seen.height * zoom
    grey = seen.convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC)
    most = float(contributions.abs().max())
    colours = coloured(contributions, -most, most, DIVERGING).convert("RGB")
    strength = coloured(contributions.abs() * OPACITY, 0.0, most)
    mask = Image.frombytes("L", strength.size, strength.tobytes())  # a palette's indices
    overlay, opacity = (x.resize(size, Image.Resampling.BICUBIC) for x in (colours, mask))
    return Image.composite(overlay, grey, opacity)


def classify_tab(networks: Networks, gallery: Gallery) -> None:
    """Builds the tab and connects its parts."""
    names = networks.classifiers
    if not names:
        gr.Markdown(NONE)
        return
    state = gr.State(None)
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            network = gr.Dropdown(names, value=names[0], label="Classifier")
            name = gr.Dropdown(gallery.names, value=None, label="Image to classify")
            upload = gr.UploadButton("Upload an image", file_types=list(IMAGE_SUFFIXES), size="sm")
            bars = gr.Label(label="Most probable", num_top_classes=TOP, elem_id="bit-classes")
        with gr.Column(scale=3):
            which = gr.Radio([], label="Evidence for", visible=False)
            text = gr.Markdown(elem_id="bit-sum")
            with gr.Row():
                shown: dict[str, Any] = {"format": "png", "interactive": False,
                                         "buttons": ["download", "fullscreen"]}  # fmt: skip
                picture = gr.Image(label="As the network sees it", **shown)
                overlay = gr.Image(label="Evidence", elem_id="bit-evidence", **shown)
    events = _Events(networks, gallery)
    made = [state, bars, which, picture, text, overlay]
    heavy: dict[str, Any] = {"concurrency_id": NETWORK, "api_visibility": "private"}
    gr.on([name.select, network.select], events.choose, [name, network], made, **heavy)
    upload.upload(events.upload, [upload, network], [name, *made], **heavy)
    which.input(events.show, [state, which], [text, overlay], show_progress="hidden",
                api_visibility="private")  # fmt: skip


class _Events:
    """What happens, with the networks and photographs of the page."""

    def __init__(self, networks: Networks, gallery: Gallery) -> None:
        self.networks, self.gallery = networks, gallery

    @shows_messages
    def choose(self, name: str | None, network: str) -> Any:
        if name is None:
            return gr.skip()
        return self._run(self.gallery.read(name), network)

    @shows_messages
    def upload(self, path: str, network: str) -> Any:
        return [None, *self._run(take_upload(path)[1], network)]

    def _run(self, image: Image.Image, network: str) -> list[Any]:
        answer = classify(self.networks, network, image)
        names = list(answer.names)
        bars = dict(zip(names, answer.probabilities, strict=True))
        choice = gr.Radio(names, value=names[0], visible=True)
        return [answer, bars, choice, answer.seen, *_shown(answer, names[0])]

    @shows_messages
    def show(self, answer: Answer | None, name: str) -> Any:
        return gr.skip() if answer is None else _shown(answer, name)


def _shown(answer: Answer, name: str) -> tuple[str, Image.Image]:
    rank = answer.names.index(name)
    contributions = answer.contributions[rank]
    bias = answer.biases[rank]
    text = (
        f"sum over {contributions.shape[0]} x {contributions.shape[1]} pixels "
        f"{float(contributions.sum()):.3f} + bias {bias:.3f} = logit {answer.logits[rank]:.3f}"
    )
    return text, evidence_picture(answer.seen, contributions)
