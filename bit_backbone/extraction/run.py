"""Feature extraction from many images."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from bit_backbone.backbone import BitBackbone
from bit_backbone.extraction.decoding import Decoded, Decoder, decoded_images
from bit_backbone.extraction.destination import Destination, Summary
from bit_backbone.extraction.features import PRECISIONS, Failure, FeatureExtractor, Features
from bit_backbone.extraction.listing import Files, ImageRef, Listing
from bit_backbone.extraction.progress import ExtractionBar
from bit_backbone.extraction.settings import OutputSettings, describe
from bit_backbone.extraction.sources import find_images
from bit_backbone.inference import optimize_in_place
from bit_backbone.inference.optimize import checked_dtype
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.utils.extras import require

__all__ = ["Extraction", "LocalEngine", "extract", "native_size"]


@dataclass
class Extraction:
    """One extraction: source, network and destination.

    Attributes:
        listing: The images.
        backbone: In eval mode.
        processor: Resizes and normalises; images may have different sizes.
        output: What is written.
        destination: Where.
        batch_size: Largest batch; only images of exactly one size share a batch.
        compile: Whether torch.compile compiles the network.
    """

    listing: Listing
    backbone: BitBackbone
    processor: BitImageProcessor
    output: OutputSettings
    destination: Destination
    batch_size: int = 32
    compile: bool = False

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(-(-len(self.listing) // self._shard_size))

    def refs(self, shard: int) -> list[ImageRef]:
        """Returns the images of a shard."""
        start = shard * self._shard_size
        stop = min(start + self._shard_size, len(self.listing))
        return [self.listing[index] for index in range(start, stop)]

    def without_listing(self) -> Extraction:
        """Returns the same extraction to send elsewhere, where shards come with their images."""
        return dataclasses.replace(self, listing=Files(self.listing.root.path, []))

    def with_own_backbone(self) -> Extraction:
        """Returns the same extraction with a copy of the network."""
        return dataclasses.replace(self, backbone=copy.deepcopy(self.backbone))

    def extractor(self) -> FeatureExtractor:
        """Makes the network itself fast for inference, and returns all that belongs to it."""
        narrow = None if self.output.precision == "fp32" else PRECISIONS[self.output.precision]
        backbone = optimize_in_place(self.backbone, compile=self.compile, dtype=narrow)
        return FeatureExtractor(
            backbone, self.processor, self.output.pool, self.output.dtype, self.batch_size
        )

    def decoder(self) -> Decoder:
        """Returns what reads the images."""
        return Decoder(self.processor, self.listing.root)

    @property
    def _shard_size(self) -> int:
        assert self.output.shard_size is not None  # OutputSettings fills it in
        return self.output.shard_size


# Writes the given shards, and updates the bar for every image that is done.
Engine = Callable[[Extraction, Sequence[int], ExtractionBar], None]


@dataclass
class LocalEngine:
    """Extraction on this machine: other processes read images while the network runs in this one.

    Attributes:
        workers: Processes that read images; 0 reads them in this one.
        in_place: Whether to use the caller's network itself instead of a copy, so that its weights
            are in memory only once. ``optimize_in_place`` changes it: afterwards it cannot be
            trained, and cannot resume this extraction.
        decoding_seconds: Seconds that all workers together spent on reading.
    """

    workers: int = 0
    in_place: bool = False
    decoding_seconds: float = field(default=0.0, init=False)

    def __call__(self, job: Extraction, shards: Sequence[int], bar: ExtractionBar) -> None:
        """Writes shards one after another."""
        extractor = (job if self.in_place else job.with_own_backbone()).extractor()
        images = decoded_images(job.decoder(), map(job.refs, shards), self.workers)
        for shard in shards:
            decoded = self._timed(islice(images, len(job.refs(shard))))
            job.destination.write_shard(shard, _counted(extractor(decoded), bar))

    def _timed(self, images: Iterable[Decoded]) -> Iterator[Decoded]:
        for image in images:
            self.decoding_seconds += image.seconds
            yield image


def _counted(
    results: Iterable[Features | Failure], bar: ExtractionBar
) -> Iterator[Features | Failure]:
    for result in results:
        yield result
        bar.advance(1)


def native_size() -> BitImageProcessor:
    """Returns a processor that keeps the size of every image."""
    return BitImageProcessor(do_resize=False, do_center_crop=False)


def _possible(output: OutputSettings, backbone: BitBackbone, compile: bool) -> OutputSettings:
    """Returns the output with the precision that this processor has, for it is recorded."""
    if PRECISIONS[output.precision] != torch.int8:
        return output
    dtype = checked_dtype(backbone, torch.int8, compile, None)
    (name,) = (name for name, known in PRECISIONS.items() if known == dtype)
    return dataclasses.replace(output, precision=name)


def extract(
    source: str | os.PathLike[str] | Listing,
    destination: str | os.PathLike[str],
    backbone: BitBackbone,
    *,
    processor: BitImageProcessor | None = None,
    output: OutputSettings | None = None,
    batch_size: int = 32,
    compile: bool = False,
    engine: Engine | None = None,
    progress: bool = False,
) -> Summary:
    """Writes the features of every image of a source.

    After a kill at any moment, the same call resumes after the last finished shard. On the CPU,
    this process then keeps the memory that it frees; ``bit_backbone.keep_pages`` explains why.

    Args:
        source: A source that ``find_images`` takes, or its result.
        destination: A new folder, or that of the same extraction.
        backbone: The network; put into eval mode. A copy, made fast for inference, computes on its
            device (with ``LocalEngine(in_place=True)`` no copy).
        processor: Of images, without padding; None resizes the shorter side to 224 and crops
            nothing.
        output: What to write; None for maps, .npy and fp32.
        batch_size: Largest batch.
        compile: Whether torch.compile compiles the network, which takes half a minute or more.
        engine: Where to compute; None for ``LocalEngine()``.
        progress: Whether to show a bar on stderr.

    Returns:
        The numbers of written and of failed images; failures.jsonl lists the latter.

    Raises:
        ValueError: There is no image, or a setting is unusable or differs from the one that the
            destination was begun with.
        ExtractionError: The destination cannot be written, or the source is gone.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow.parquet", "extract", "extraction")
    listing = source if isinstance(source, Listing) else find_images(source)
    processor = processor or BitImageProcessor(do_center_crop=False)
    if processor.do_pad:
        raise ValueError(
            "features are computed without padding, got a processor with do_pad=True: leave it "
            "out; all images of a batch have one size in any case"
        )
    output = _possible(output or OutputSettings(), backbone, compile)
    channels = dict(zip(backbone.out_features, backbone.channels, strict=True))
    folder = Destination(Path(destination).absolute(), output, channels)
    job = Extraction(listing, backbone.eval(), processor, output, folder, batch_size, compile)
    with folder.opened(describe(listing, backbone, processor, output)):
        finished = folder.finished()
        pending = [shard for shard in job.shards if shard not in finished]
        done = len(listing) - sum(len(job.refs(shard)) for shard in pending)
        with ExtractionBar(len(listing), done, progress) as bar:
            if pending:
                (engine or LocalEngine())(job, pending, bar)
        return folder.finish(job.shards)
