"""The move of the right to write: a cutover, or the same with the sides exchanged.

Theory of operation.  An attempt is a row of the control schema that is decided
once, by one committed statement.  Before that commit every failure leads back:
the leader's fences fall and its writers go on.  After it every failure leads
forward: the new leader is opened.  Each step is journaled, and each is such that
repeating it does no harm, so that whoever finds an attempt without its process
(the next call, or the stream process) can tell from the attempt and the journal
alone which way to go: `toolkit.recovery`.

The steps stand in their order in `toolkit.before_pause`, `toolkit.write_pause` with
the decision, and `toolkit.opening`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from toolkit import journal
from toolkit.gates import Gate
from toolkit.say import Say
from toolkit.sides import Sides
from validators.session import Ends


@dataclass(slots=True)
class Move:
    """One attempt under way."""

    sides: Sides
    attempt: int
    say: Say
    ends: Mapping[str, Ends] = field(default_factory=dict)  # for comparing keys
    deadline: float = 0.0  # of time.monotonic(), once the pause has begun
    paused_at: float = 0.0
    steps_ms: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    announced: bool = False  # the switch was told to prepare

    @property
    def pause_ms(self) -> float:
        """How long nobody has been able to write, until now."""
        return round((time.monotonic() - self.paused_at) * 1000, 1) if self.paused_at else 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Journal a step before and after, and time it if writers wait."""
        split, source = self.sides.split.name, self.sides.source
        journal.record(source, split, name, "begin", attempt=self.attempt)
        began = time.monotonic()
        details: dict[str, Any] = {}
        yield details
        took = round((time.monotonic() - began) * 1000, 1)
        if self.paused_at:
            self.steps_ms[name] = took
        self.facts[name] = details
        journal.record(source, split, name, attempt=self.attempt, details={**details, "ms": took})
        self.say(name, {**details, "ms": took})
