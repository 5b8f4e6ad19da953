"""What the demo tells whoever watches it, as it happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Began:
    """A step has begun."""

    step: str
    title: str


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the JSON that a verb writes."""

    step: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """A step is done."""

    step: str
    title: str
    took_s: float
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How things stood at one moment."""

    at: float  # unix seconds
    acknowledged: int  # writes of all applications so far
    per_s: float  # of them, since the sample before
    phases: Mapping[str, str]  # by service; empty before there are any
    lag_bytes: Mapping[str, int]  # by service


Telling: TypeAlias = Began | Said | Ended | Sample
Tell: TypeAlias = Callable[[Telling], None]
