"""The tables of the model zoo, as the code has them.

    python tests/docs/zoo_tables.py

writes them into docs/zoo.md, between the marks.
"""

import re
from collections import defaultdict

import torch
from pages import DOCS

from bit_backbone.checkpoints import PublishedCheckpoint, catalog
from bit_backbone.checkpoints.published import VTAB_RUNS, VTAB_TASKS, VTAB_VARIANTS
from bit_backbone.config import VARIANTS, BitConfig
from bit_backbone.profiling import profile

PAGE = DOCS / "zoo.md"
LABELS = 1000
GIB = 2**30


def tables() -> dict[str, str]:
    """Every table of the page by the name of its marks."""
    return {"networks": networks(), "checkpoints": checkpoints(), "vtab": vtab()}


def networks() -> str:
    """What each network costs."""
    lines = [
        "| variant | units per stage | width | parameters, M | GMACs | inference, GiB "
        "| training, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (units, width) in VARIANTS.items():
        config = BitConfig.from_variant(name)
        costs = profile(config, (224, 224), dtype=torch.float32)
        channels = config.channels[-1]
        # the final norm and the head, which a backbone does not have
        parameters = costs.parameters + 2 * channels + (channels + 1) * LABELS
        macs = costs.macs + channels * LABELS
        dense = config.replace(out_indices=(1, 2, 3, 4), feature_norm="preact")
        large = profile(dense, (800, 1344), dtype=torch.float32)
        lines.append(
            f"| `{name}` | {', '.join(map(str, units))} | {width} | {parameters / 1e6:.2f} | "
            f"{macs / 1e9:.2f} | {large.inference_bytes / GIB:.2f} | "
            f"{large.training_bytes / GIB:.2f} |"
        )
    return "\n".join(lines)


def checkpoints() -> str:
    """Every checkpoint of the catalog but VTAB-1k's, by network."""
    lines = [
        "| checkpoint | also | trained on | classes | top-1, % | top-5, % | images |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = defaultdict(list)
    for entry in catalog().values():
        rows[entry.variant].append(entry)
    for variant in VARIANTS:
        lines += [_row(entry) for entry in rows[variant]]
    return "\n".join(lines)


def _row(entry: PublishedCheckpoint) -> str:
    accuracies = ("" if value is None else f"{value:.2f}" for value in (entry.top1, entry.top5))
    also = ", ".join(f"`{alias}`" for alias in entry.aliases)
    cells = (f"`{entry.name}`", also, entry.data, entry.num_labels, *accuracies, entry.preset)
    return f"| {' | '.join(map(str, cells))} |"


def vtab() -> str:
    """The names of VTAB-1k's."""
    return (
        f"`vtab/BiT-M-VARIANT-runRUN-TASK`, with VARIANT {', '.join(VTAB_VARIANTS)}, RUN "
        f"{', '.join(map(str, VTAB_RUNS))} and TASK one of "
        f"{', '.join(f'`{task}`' for task in VTAB_TASKS)}."
    )


def filled(text: str) -> str:
    """The page with every table as the code has it."""
    for name, table in tables().items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n\n).*?(<!-- end -->)",
            lambda marks, table=table: f"{marks[1]}{table}\n\n{marks[2]}",
            text,
            flags=re.DOTALL,
        )
        assert count == 1, f"docs/zoo.md has no marks for {name}"
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
