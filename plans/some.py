"""How a long list is told in a sentence."""

from __future__ import annotations

from collections.abc import Sequence


def some(things: Sequence[object], shown: int = 3) -> str:
    """The first of many, and how many more there are."""
    names = ", ".join(map(str, things[:shown]))
    return f"{names} and {len(things) - shown} more" if len(things) > shown else names
