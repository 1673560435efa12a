"""Writes the table of MODEL.BIT on docs/detectron2.md from bit_backbone/detectron2/config.py.

python tests/docs/option_table.py
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "detectron2.md"
SOURCE = ROOT / "bit_backbone" / "detectron2" / "config.py"
BEGIN, END = "<!-- options -->\n", "<!-- end of the options -->\n"


def rows() -> list[tuple[str, str, str]]:
    """Returns name, default and comment of each option, without detectron2."""
    found, comment = [], []
    for line in SOURCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("    # "):
            comment.append(line.removeprefix("    # "))
        elif option := re.match(r"    node\.([A-Z_]+) = (.*)", line):
            found.append((option[1], option[2], " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def table() -> str:
    """Returns the table in Markdown."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | `{default}` | {comment} |" for name, default, comment in rows()]
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """Returns the page with the table between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
