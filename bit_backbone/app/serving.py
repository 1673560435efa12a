"""Serving the page, to this machine only unless another address is asked for."""

from __future__ import annotations

import ipaddress
import signal
from typing import Any

from bit_backbone.app.networks import Networks
from bit_backbone.app.photographs import MOST_BYTES, Gallery
from bit_backbone.app.uploads import private_folder
from bit_backbone.utils.extras import require

SESSIONS = 8  # whose maps and photographs are kept; the oldest go first
WAITING = 32  # requests in the queue


def serve(networks: Networks, gallery: Gallery, host: str, port: int | None) -> None:
    """Serves the page until it is interrupted.

    Args:
        networks: To be looked at.
        gallery: Photographs to choose from.
        host: The address to listen on.
        port: The port; None for the first free one from 7860.

    Raises:
        MissingExtraError: Gradio is not installed.
        OSError: The port is taken.
    """
    require("gradio", "app", "the page")
    # as Ctrl-C: an end that removes what users have uploaded
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with private_folder():
        page, url = start(networks, gallery, host, port)
        try:
            print(f"the page is at {url}; Ctrl-C ends it")
            print(reach(host), flush=True)
            page.block_thread()
        finally:
            page.close(verbose=False)


def start(networks: Networks, gallery: Gallery, host: str, port: int | None) -> tuple[Any, str]:
    """Starts to serve the page; returns it, and its address.

    Uploads and downloads go to the folder of ``private_folder``.
    """
    import gradio as gr

    from bit_backbone.app.page import build_page
    from bit_backbone.app.views import STYLE

    page = build_page(networks, gallery).queue(max_size=WAITING)
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,  # of what was not foreseen: its text may hold anything
        share=False,
        allowed_paths=[],
        max_file_size=MOST_BYTES,
        state_session_capacity=SESSIONS,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        css=STYLE,
        # the reader's own fonts: the default theme asks Google for some
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "Consolas", "monospace"]
        ),
    )
    return page, url


def reach(host: str) -> str:
    """Says who can open a page that listens on an address."""
    if _is_loopback(host):
        return "only this machine can open it (--host 0.0.0.0 lets others)"
    return (
        f"warning: it listens on {host}, without a password: whoever reaches this machine can open "
        "it and upload images"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
