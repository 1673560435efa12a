"""The page: its tabs, and what they share."""

from __future__ import annotations

from typing import Any

import gradio as gr

from bit_backbone.app.classify_tab import classify_tab
from bit_backbone.app.detect_tab import detect_tab
from bit_backbone.app.features_tab import features_tab
from bit_backbone.app.networks import RANDOM, Networks
from bit_backbone.app.photographs import Gallery
from bit_backbone.app.uploads import CHECKED_SECONDS, KEPT_SECONDS

TITLE = "bit_backbone"
HOW_TO = (
    "No checkpoint was given: the network has **random weights**. Start the page with "
    "`bit-backbone app --weights BiT-M-R50x1`, or with the folder of a run of `bit-backbone train` "
    "or `finetune`; in a checkout, `make demo` trains a detector and a classifier in minutes."
)


def build_page(networks: Networks, gallery: Gallery) -> gr.Blocks:
    """Builds the page.

    Args:
        networks: To be looked at.
        gallery: Photographs to choose from.
    """
    page = gr.Blocks(
        title=TITLE,
        analytics_enabled=False,  # which would send what is used, and ask for newer versions
        delete_cache=(CHECKED_SECONDS, KEPT_SECONDS),
        fill_width=True,
    )
    with page:
        gr.Markdown(f"# {TITLE}: what a network sees")
        if networks.names == [RANDOM]:
            gr.Markdown(HOW_TO)
        with gr.Tab("Features"):
            features_tab(page, networks, gallery)
        with gr.Tab("Detect"):
            detect_tab(networks, gallery)
        with gr.Tab("Classify"):
            classify_tab(networks, gallery)

        def forget(request: gr.Request) -> None:
            """Removes what a closed page has looked at; Gradio would keep it for an hour."""
            holder: Any = page.state_holder
            holder.delete_state(request.session_hash)

        page.unload(forget)
    return page
