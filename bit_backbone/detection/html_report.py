"""``report.html`` of a run: one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from bit_backbone.detection.findings import MATCH_IOU, MIN_SCORE, Findings
from bit_backbone.training.runlog import LOG_NAME, read_log
from bit_backbone.training.state import RunState
from bit_backbone.utils.files import atomic_path
from bit_backbone.visualization.charts import (
    Curve,
    check_charts,
    line_chart,
    matrix_chart,
    picture_uri,
)

REPORT_NAME = "report.html"
PROBLEMS_NAME = "problems.jsonl"
PICTURES = 6  # of the best, and of the worst
MOST_CURVES = 10
MOST_PROBLEMS = 100
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border-bottom: 1px solid #ddd; padding: .2rem .8rem; text-align: left }
td.number { font-variant-numeric: tabular-nums; text-align: right }
.settings td, .settings td.number { text-align: left }
img { max-width: 100% }
figure { display: inline-block; margin: .5rem; max-width: 34rem; vertical-align: top }
"""


def write_report(
    run: Path, metrics: Mapping[str, float], findings: Findings, images: list[str]
) -> Path:
    """Writes the report of a run into its folder, and returns the path.

    Args:
        run: The folder.
        metrics: Of the evaluation.
        findings: Of the same.
        images: Names of the evaluated images.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_charts()
    sections = [
        ("Result", _table(_shown(metrics))),
        ("Settings", _table(_settings(run))),
        ("Problems", _problems(run)),
        ("Training", "".join(_training(run))),
        ("Classes", _classes(findings)),
        ("Precision and recall", _curves(findings)),
        ("Confusion", _confusion(findings)),
        ("Worst pictures", _pictures(findings, images, best=False)),
        ("Best pictures", _pictures(findings, images, best=True)),
    ]
    body = "".join(f"<h2>{title}</h2>{text}" for title, text in sections if text)
    head = f'<meta charset="utf-8"><title>{escape(run.name)}</title><style>{STYLE}</style>'
    page = f"<!doctype html><html lang=en><head>{head}</head><body><h1>{escape(run.name)}</h1>"
    with atomic_path(run / REPORT_NAME) as temporary:
        temporary.write_text(f"{page}{body}</body></html>\n", encoding="utf-8")
    return run / REPORT_NAME


def _table(rows: Mapping[str, Any]) -> str:
    cells = (f"<tr><th>{escape(name)}</th>{_cell(value)}</tr>" for name, value in rows.items())
    return f'<table class="settings">{"".join(cells)}</table>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    return f"<td>{escape(value if isinstance(value, str) else json.dumps(value))}</td>"


def _shown(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Returns metrics, without those of what is not annotated."""
    return {name: value for name, value in metrics.items() if value >= 0}


def _settings(run: Path) -> dict[str, Any]:
    state = RunState.load(run)
    return {} if state is None else {"steps done": state.step, **state.settings}


def _problems(run: Path) -> str:
    path = run / PROBLEMS_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        return "<p>None are recorded.</p>"
    items = "".join(f"<li>{_problem(json.loads(line))}</li>" for line in lines[:MOST_PROBLEMS])
    counted = f"{len(lines)}, of which the first {MOST_PROBLEMS} are:"
    return f"<p>{counted if len(lines) > MOST_PROBLEMS else len(lines)}</p><ul>{items}</ul>"


def _problem(record: Mapping[str, Any]) -> str:
    """Returns a line about a record of problems.jsonl: where, what, and what was done."""
    where = " ".join(str(record[name]) for name in ("set", "file") if record.get(name))
    what = ": ".join(str(record[name]) for name in ("kind", "detail") if record.get(name))
    done = f" ({record['action']})" if record.get("action") else ""
    return f"<code>{escape(where)}</code> {escape(what + done)}"


def _training(run: Path) -> Iterator[str]:
    """Yields charts of what the run has logged."""
    events = read_log(run / LOG_NAME) if (run / LOG_NAME).exists() else []
    names = list(dict.fromkeys(name for event in events for name in event))
    losses = [name for name in names if name.startswith("loss")]
    headline = [name for name in names if name.endswith(("_AP", "_AP50", "_mIoU"))]
    if losses:
        yield _figure(line_chart(_columns(events, losses), "step", "loss", smooth=True))
    if headline:
        yield _figure(line_chart(_columns(events, headline), "step", "on the test images"))


def _columns(events: Iterable[dict[str, Any]], names: list[str]) -> dict[str, Curve]:
    columns: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for event in events:
        for name in names:
            if name in event:
                columns[name][0].append(event["step"])
                columns[name][1].append(event[name])
    return dict(columns)


def _figure(uri: str, caption: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{uri}" alt="{escape(caption)}">{below}</figure>'


def _classes(findings: Findings) -> str:
    columns = list(dict.fromkeys(c for values in findings.classes.values() for c in values))
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns))
    rows = []
    for name, values in findings.classes.items():
        shown = (values.get(column, -1.0) for column in columns)
        cells = (_cell(v) if v >= 0 else '<td class="number">-</td>' for v in shown)
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _curves(findings: Findings) -> str:
    if not findings.curves:
        return ""
    worst = sorted(findings.curves, key=lambda name: sum(findings.curves[name][1]))[:MOST_CURVES]
    shown = {name: findings.curves[name] for name in findings.curves if name in worst}
    which = "" if len(shown) == len(findings.curves) else f", the {MOST_CURVES} worst classes"
    chart = line_chart(shown, "recall", "precision", unit_square=True)
    return _figure(chart, f"boxes, IoU {MATCH_IOU}{which}")


def _confusion(findings: Findings) -> str:
    chart = matrix_chart(findings.confusion, findings.names)
    boxes = f"boxes that overlap by IoU {MATCH_IOU} and more, scores from {MIN_SCORE}"
    return _figure(chart, boxes if findings.curves else "")


def _pictures(findings: Findings, images: list[str], *, best: bool) -> str:
    """Shows pictures; among equals those that have more in them."""
    sign = -1 if best else 1
    ranked = sorted(
        range(len(findings.quality)),
        key=lambda i: (sign * findings.quality[i], -findings.weight[i], i),
    )
    return "".join(
        _figure(picture_uri(findings.picture(i)), f"{images[i]}: {findings.quality[i]:.2f}")
        for i in ranked[:PICTURES]
    )
