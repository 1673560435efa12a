"""The Features tab: similarities of pixels in every stage of one network, or of two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from bit_backbone.app.looks import MOST_SIDE, Look, Photograph, look
from bit_backbone.app.networks import MAPS, STRIDES, Networks, View
from bit_backbone.app.photographs import Gallery
from bit_backbone.app.uploads import shows_messages, take_upload
from bit_backbone.app.views import PICK, components_view, photograph_view, similarity_view
from bit_backbone.utils.image_files import IMAGE_SUFFIXES

SIDES = (64, 800, 480)  # of the photograph's shorter side: least, most, default
NETWORK = "network"  # of gradio's queue: one forward pass at a time
ABOUT = (
    "Click a pixel of the photograph or of a map. Every map then shows the cosine similarity of "
    "all its pixels to that one, from dark to bright over the range that stands below it; one "
    "pixel in a hundred exceeds that. The channels are those with the largest response there."
)


def features_tab(page: gr.Blocks, networks: Networks, gallery: Gallery) -> None:
    """Builds the tab and connects its parts."""
    state = gr.State(None)
    gr.Markdown(ABOUT)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            first, upload = _photograph_inputs("Photograph", gallery.names, gallery.names[:1])
            choices = networks.names
            network = gr.Dropdown(choices, value=choices[0], label="Network")
            beside = gr.Dropdown(
                ["none", *choices], value=(*choices[1:2], "none")[0], label="Network beside it"
            )
            maps = gr.Radio(list(MAPS), value=MAPS[0], label="Maps")
            stride = gr.Radio(list(STRIDES), value=STRIDES[0], label="Output stride")
            side = gr.Slider(*SIDES[:2], SIDES[2], step=16, label="Shorter side, in pixels",
                             info=f"the longer one becomes {MOST_SIDE} at most")  # fmt: skip
            stages = gr.CheckboxGroup([], label="Layers")  # those that the networks have
            second, upload_second = _photograph_inputs(
                "Second photograph, for the same pixel", ["none", *gallery.names], ["none"]
            )
        with gr.Column(scale=3):
            photograph = gr.HTML(js_on_load=PICK, elem_id="bit-photograph")
            gr.Markdown("**Similarity** to the pixel")
            similarity = gr.HTML(js_on_load=PICK, elem_id="bit-similarity")
            gr.Markdown("**Principal components** of every map, as red, green and blue")
            components = gr.HTML(js_on_load=PICK, elem_id="bit-components")
    settings = [network, beside, maps, stride, side, stages]
    shown = [state, stages, photograph, similarity, components]
    events = _Events(networks, gallery)
    heavy = {"concurrency_id": NETWORK, "concurrency_limit": 1, "api_visibility": "private"}
    gr.on([first.select, page.load], events.choose, [first, state, *settings], shown, **heavy)
    upload.upload(events.upload, [upload, state, *settings], [first, *shown], **heavy)
    second.select(events.choose_second, [second, state, *settings], shown, **heavy)
    upload_second.upload(
        events.upload_second, [upload_second, state, *settings], [second, *shown], **heavy
    )
    changes = [network.select, beside.select, maps.input, stride.input, side.release]
    gr.on(changes, events.change, [state, *settings], shown, **heavy)
    stages.input(events.choose_stages, [state, stages], [similarity, components],
                 api_visibility="private")  # fmt: skip
    for clicked in (photograph, similarity, components):
        clicked.click(events.click, [state, stages], [state, similarity], show_progress="hidden",
                      trigger_mode="always_last", concurrency_limit=4,
                      api_visibility="private")  # fmt: skip


def _photograph_inputs(label: str, names: list[str], chosen: list[str]) -> tuple[Any, Any]:
    dropdown = gr.Dropdown(names, value=chosen[0] if chosen else None, label=label)
    button = gr.UploadButton("Upload one", file_types=list(IMAGE_SUFFIXES), size="sm")
    return dropdown, button


class _Events:
    """What happens, with the networks and photographs of the page."""

    def __init__(self, networks: Networks, gallery: Gallery) -> None:
        self.networks, self.gallery = networks, gallery

    @shows_messages
    def choose(self, name: str | None, before: Look | None, *settings: Any) -> list[Any]:
        if name is None:
            return gr.skip()
        return self._look(
            Photograph(name, self.gallery.read(name)), _second(before), before, settings
        )

    @shows_messages
    def upload(self, path: str, before: Look | None, *settings: Any) -> list[Any]:
        photograph = Photograph(*take_upload(path))
        return [None, *self._look(photograph, _second(before), before, settings)]

    @shows_messages
    def choose_second(self, name: str, before: Look | None, *settings: Any) -> list[Any]:
        second = None if name == "none" else Photograph(name, self.gallery.read(name))
        return self._look(_first(before), second, before, settings)

    @shows_messages
    def upload_second(self, path: str, before: Look | None, *settings: Any) -> list[Any]:
        second = Photograph(*take_upload(path))
        return [None, *self._look(_first(before), second, before, settings)]

    @shows_messages
    def change(self, before: Look | None, *settings: Any) -> list[Any]:
        return self._look(_first(before), _second(before), before, settings)

    def choose_stages(self, before: Look | None, stages: list[str]) -> tuple[Any, Any]:
        if before is None:
            return gr.skip(), gr.skip()
        return similarity_view(before, stages), components_view(before, stages)

    @shows_messages
    def click(self, before: Look | None, stages: list[str], event: gr.EventData) -> tuple[Any, Any]:
        _first(before)
        assert before is not None
        after = replace(before, place=(float(event.x), float(event.y)))
        return after, similarity_view(after, stages)

    def _look(
        self, first: Photograph, second: Photograph | None, before: Look | None, settings: Any
    ) -> list[Any]:
        network, beside, maps, stride, side, stages = settings
        views = [View(name, maps, stride) for name in (network, beside) if name != "none"]
        photographs = [first] if second is None else [first, second]
        after = look(self.networks, photographs, views, int(side), before)
        off = set(before.stages if before else ()) - set(stages)
        stages = [name for name in after.stages if name not in off]
        return [
            after,
            gr.CheckboxGroup(list(after.stages), value=stages),
            photograph_view(after),
            similarity_view(after, stages),
            components_view(after, stages),
        ]


def _first(before: Look | None) -> Photograph:
    if before is None:
        raise ValueError("there is no photograph yet, or it was removed after an hour; choose one")
    return before.first


def _second(before: Look | None) -> Photograph | None:
    return None if before is None else before.second
