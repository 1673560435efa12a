"""What a contender hands over to be timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Step:
    """What is timed, and what it says about itself.

    Attributes:
        run: Does the work once.
        facts: Numbers of this contender for the report.
    """

    run: Callable[[], Any]
    facts: dict[str, float] = field(default_factory=dict)
