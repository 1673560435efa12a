"""The app's page, served to tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Served:
    """A page that is being served.

    Attributes:
        url: Where.
        page: Gradio's.
        folder: Of uploads and downloads.
    """

    url: str
    page: Any
    folder: Path

    def files(self) -> list[Path]:
        """Those with any content that users have left on the server.

        Gradio makes an empty one for each upload.
        """
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path for path in found if path.stat().st_size]


@contextmanager
def serving(checkpoints: list[Path], images: Path | None = None) -> Iterator[Served]:
    """Serves the page on a free port."""
    pytest.importorskip("gradio")
    from bit_backbone.app.networks import Networks
    from bit_backbone.app.photographs import Gallery
    from bit_backbone.app.serving import start
    from bit_backbone.app.uploads import private_folder

    with private_folder() as folder:
        networks = Networks([str(path) for path in checkpoints])
        page, url = start(networks, Gallery(images), "127.0.0.1", None)
        try:
            yield Served(url, page, folder)
        finally:
            page.close(verbose=False)
