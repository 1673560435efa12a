"""``MODEL.WEIGHTS: "bit://..."``: any BiT checkpoint, through detectron2's own checkpointer.

detectron2 asks its path manager for a local file and gives that file's tensors to the model. So a
checkpoint is converted to a file once, and kept; and the modules here take from the state dict
what is theirs. Between the two, fvcore's checkpointer drops, with a warning, every tensor whose
name fits and whose shape does not. The names in the converted file therefore carry a mark and fit
none: nothing is dropped, and what does not fit raises the errors of ``bit_backbone.checkpoints``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir
from torch import Tensor, nn

from bit_backbone.backbone import BitBackbone
from bit_backbone.checkpoints import CheckpointError, convert
from bit_backbone.checkpoints.checkpoint import Checkpoint
from bit_backbone.checkpoints.files import TreeFile
from bit_backbone.checkpoints.loading import load_checkpoint
from bit_backbone.config import BitConfig
from bit_backbone.utils.files import atomic_path

__all__ = ["BitC4Handler", "BitHandler", "CheckpointTaker", "fit_backbone", "register_handlers"]

FPN_PREFIX = "backbone.bottom_up."
RES5_PREFIX = "roi_heads.res5."
# Where it came from stands between a module's prefix, whatever is left of it, and our name.
_MARK = re.compile(r"(?:backbone\.)?(?:bottom_up\.)?<(?P<source>.+)>\.(?P<name>.+)")
_FRESH = "feature_norms."  # in no checkpoint but detectron2's own
_LAYOUT = 1  # raised whenever converted files come to look different, so that old ones are not used

# detectron2 shows what its own loggers say, and nobody else's.
_LOGGER = logging.getLogger("detectron2.bit_backbone")


class BitHandler(PathHandler):
    """Paths such as bit://BiT-M-R50x1: whatever ``bit_backbone.checkpoints.load`` takes.

    A published name, a file (bit://weights/BiT-M-R50x1.npz, bit:///absolute/path), a folder or a
    repository on the Hugging Face Hub (bit://timm/resnetv2_50x1_bit.goog_in21k). The converted file
    is kept in iopath's cache, for a local file until it changes.
    """

    SCHEME = "bit"

    def _get_supported_prefixes(self) -> list[str]:
        # detectron2 parses the path and puts it together again, and bit:///x becomes bit:/x.
        return [f"{self.SCHEME}:"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        source = _source(path.removeprefix(f"{self.SCHEME}:"))
        target = _cached(self.SCHEME, source)
        with file_lock(str(target)):  # the other processes of a job wait for the first
            if force or not target.is_file():
                self._convert(source, target)
        return str(target)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if mode != "rb":
            raise ValueError(f"{path} is a file of tensors: its mode must be 'rb', got {mode!r}")
        return open(self._get_local_path(path, **kwargs), mode, buffering=buffering)

    def _convert(self, source: str, target: Path) -> None:
        """Writes the file that detectron2 reads."""
        prefix = f"{FPN_PREFIX}<{self.SCHEME}://{source}>."
        report = convert(source, target, "detectron2", head="drop", prefix=prefix, overwrite=True)
        _LOGGER.info("converted %s (%s) to %s", source, report.architecture, target)


class BitC4Handler(BitHandler):
    """The same as bit-c4://BiT-M-R50x1 for C4 detectors, whose last stage is ``roi_heads.res5``."""

    SCHEME = "bit-c4"

    def _convert(self, source: str, target: Path) -> None:
        """Copies the file of bit://, and adds the names that the head has."""
        whole = PathManager.get_local_path(f"{BitHandler.SCHEME}://{source}")
        content = torch.load(whole, weights_only=True)
        copies = {
            name.replace(FPN_PREFIX, RES5_PREFIX, 1): tensor
            for name, tensor in content["model"].items()
        }
        content["model"] |= copies  # torch.save writes each tensor once, whatever its names
        with atomic_path(target) as path:
            torch.save(content, path)


def register_handlers() -> None:
    """Makes detectron2's path manager understand bit:// and bit-c4://; again is harmless."""
    PathManager.register_handler(BitHandler())
    PathManager.register_handler(BitC4Handler())


def _source(rest: str) -> str:
    """What stands after the scheme as a name or a path."""
    name = rest.removeprefix("//") if rest.startswith("//") else rest
    if not name:
        raise CheckpointError(
            "bit:// needs a published name, a path or owner/name on the Hugging Face Hub after "
            "it, such as bit://BiT-M-R50x1"
        )
    return os.path.expanduser(name)


def _cached(scheme: str, source: str) -> Path:
    """Where the converted form of a source is kept; a file that changes has another place."""
    path = Path(source)
    files = [file for file in (*sorted(path.glob("*")), path) if file.is_file()]
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([_LAYOUT, scheme, source, states]).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "_", source.removesuffix(path.suffix) if files else source)
    return Path(get_cache_dir(), "bit_backbone", f"{name[-80:]}-{key[:12]}.pth")


class CheckpointTaker(nn.Module):
    """What a module of ours takes out of a state dict that detectron2 loads.

    Tensors under exactly the module's own names are loaded as in any module. Those of a whole BiT
    network are fitted by ``fit``: a converted file's, or what ``tools/convert_checkpoint.py
    --format detectron2`` writes, which then also serve a backbone without FPN.
    """

    def fit(self, tensors: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Returns the module's tensors, out of a whole network's.

        Args:
            tensors: The network's, under our names.
            source: Where they came from, for messages.

        Raises:
            CheckpointError: They do not fit.
        """
        raise NotImplementedError

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = self.state_dict().keys()
        tensors, source = _find_network(state_dict, prefix)
        if (
            not {prefix + name for name in tensors} <= state_dict.keys()
            or not tensors.keys() <= own
        ):
            for name in [name for name in state_dict if name.startswith(prefix)]:
                del state_dict[name]
            fitted = self.fit(tensors, source)
            state_dict.update({prefix + name: tensor for name, tensor in fitted.items()})
        if prefix or tensors:  # a backbone may be given tensors by and by
            expected = [name for name in own if not name.startswith(_FRESH)]
            _report(
                prefix, sum(prefix + name in state_dict for name in expected), len(expected), source
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def fit_backbone(
    config: BitConfig, tensors: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Returns a backbone's tensors out of a whole network's; see ``CheckpointTaker.fit``."""
    with torch.device("meta"):  # filled directly, so this allocates nothing
        backbone = BitBackbone(config)
    report = load_checkpoint(backbone, Checkpoint(TreeFile(tensors, source, "dict")), "drop")
    return {name: t for name, t in backbone.state_dict().items() if name not in report.fresh}


def _report(prefix: str, found: int, expected: int, source: str) -> None:
    """Logs how many tensors a module got: a warning, unless it is all of them."""
    module = prefix.rstrip(".") or "the backbone"
    level = logging.INFO if found == expected else logging.WARNING
    _LOGGER.log(level, "%s got %d of its %d BiT tensors from %s", module, found, expected, source)


def _find_network(state_dict: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors under a prefix by our names, and where they came from."""
    tensors, source = {}, "the checkpoint"
    for name, tensor in state_dict.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            marked = _MARK.fullmatch(rest)
            tensors[marked["name"] if marked else rest.removeprefix("bottom_up.")] = tensor
            source = marked["source"] if marked else source
    return tensors, source
