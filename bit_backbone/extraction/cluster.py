"""Extraction on a Ray cluster, by Ray Data.

Tasks read images anywhere in the cluster; actors that hold the network write the shards. A shard is
one row of the data set, so Ray's back-pressure and retries work by whole shards, and a shard done
twice is the same file. Every node has to see the source and the destination by the same paths.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bit_backbone.extraction.decoding import Decoded, Decoder
from bit_backbone.extraction.errors import ExtractionError
from bit_backbone.extraction.listing import ImageRef
from bit_backbone.utils.extras import require

if TYPE_CHECKING:
    from bit_backbone.extraction.progress import ExtractionBar
    from bit_backbone.extraction.run import Extraction

# Pixels that travel from readers to the network in one row; later images are read by the actor.
_SHIPPED_BYTES = 256 * 2**20
# Two readers share a core, since each waits for its disk. Ray would fuse steps of equal needs: the
# actors would read, and the network wait for them.
READER_CPUS = 0.5
ACTOR_CPUS = 1.0


@dataclass(frozen=True)
class RayEngine:
    """Extraction on a Ray cluster.

    Attributes:
        address: Address of the cluster ("auto", "ray://host:10001"). None for the one that this
            process is connected to, else that of RAY_ADDRESS, else a new one on this machine.
        actors: Copies of the network.
        gpus_per_actor: GPUs per actor, may be a fraction; 0 computes on the CPU.

    Raises:
        ValueError: There are fewer than one actor or fewer than zero GPUs.
    """

    address: str | None = None
    actors: int = 1
    gpus_per_actor: float = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.actors < 1:
            raise ValueError(f"a pool needs at least one actor, got {self.actors}")
        if self.gpus_per_actor < 0:
            raise ValueError(f"an actor must have 0 or more GPUs, got {self.gpus_per_actor:g}")

    def __call__(self, job: Extraction, shards: Sequence[int], bar: ExtractionBar) -> None:
        """Writes shards on the cluster, in any order.

        Raises:
            ValueError: The cluster cannot hold the actors.
            ExtractionError: An actor could not write, the source is gone, or Ray gave up.
        """
        ray = require("ray", "ray", "the engine 'ray'")
        require("ray.data", "ray", "the engine 'ray'")
        with _connection(ray, self.address):
            self._check_resources(ray.cluster_resources())
            for row in self._rows(ray, job, shards):
                if row["error"]:
                    raise ExtractionError(row["error"])
                bar.advance(row["done"])

    def _check_resources(self, resources: dict[str, float]) -> None:
        """An actor that can never start would let Ray wait for ever."""
        needed = {
            "CPU": self.actors * ACTOR_CPUS + READER_CPUS,
            "GPU": self.actors * self.gpus_per_actor,
        }
        for kind, count in needed.items():
            there = resources.get(kind, 0)
            if there < count:
                raise ValueError(
                    f"{self.actors} actors (of {ACTOR_CPUS:g} CPU, {self.gpus_per_actor:g} GPUs) "
                    f"and a reader ({READER_CPUS:g} CPU) need {count:g} {kind}s in the cluster, "
                    f"got {there:g}; ask for fewer actors or smaller ones"
                )

    def _rows(self, ray: Any, job: Extraction, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        shared = ray.put(_on_cpu(job))
        rows = [{"shard": shard, "refs": pickle.dumps(job.refs(shard))} for shard in shards]
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Reader(job.decoder()), num_cpus=READER_CPUS
        )
        done = data.map(
            _ShardWriter,
            fn_constructor_args=(shared, "cuda" if self.gpus_per_actor else "cpu"),
            compute=ray.data.ActorPoolStrategy(size=self.actors),
            num_cpus=ACTOR_CPUS,
            num_gpus=self.gpus_per_actor or None,
        )
        try:
            yield from done.iter_rows()
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()
            raise ExtractionError(
                f"the cluster stopped: {said[-1] if said else error!r}"
            ) from error


def _on_cpu(job: Extraction) -> Extraction:
    """Returns what an actor needs, in a form that any node can unpickle."""
    backbone = copy.deepcopy(job.backbone).cpu()
    return dataclasses.replace(job.without_listing(), backbone=backbone)


class _Reader:
    """The step that reads: references in, images out."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        images = list(read_until(self._decoder, pickle.loads(row["refs"]), _SHIPPED_BYTES))
        return {"shard": row["shard"], "images": pickle.dumps(images)}


def read_until(
    decoder: Decoder, refs: Sequence[ImageRef], limit: int
) -> Iterator[Decoded | ImageRef]:
    """Reads images up to a number of bytes, and passes the references of the rest on."""
    total = 0
    for ref in refs:
        if total >= limit:
            yield ref
            continue
        image = decoder(ref)
        total += 0 if image.pixels is None else image.pixels.nbytes
        yield image


class _ShardWriter:
    """The step that holds the network: images in, a shard on the disk.

    Errors that end the extraction travel as values: Ray would wrap the exception into pages.
    """

    def __init__(self, job: Any, device: str) -> None:
        import ray

        job = ray.get(job)
        job.backbone.to(device).eval()
        self._decoder = job.decoder()
        self._extractor = job.extractor()
        self._destination = job.destination

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        images = pickle.loads(row["images"])
        try:
            results = self._extractor(map(self._read, images))
            self._destination.write_shard(int(row["shard"]), results)
        except ExtractionError as error:
            return {"done": 0, "error": str(error)}
        return {"done": len(images), "error": ""}

    def _read(self, image: Decoded | ImageRef) -> Decoded:
        decoded = self._decoder(image) if isinstance(image, ImageRef) else image
        decoded.raise_if_fatal()
        return decoded


@contextlib.contextmanager
def _connection(ray: Any, address: str | None) -> Iterator[None]:
    """Joins the cluster, or the one that this process is connected to already."""
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError) as error:
            raise ValueError(f"there is no Ray cluster at {address!r}: {error}") from error
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        context.enable_progress_bars = shown
        if started:
            ray.shutdown()
