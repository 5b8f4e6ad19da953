"""Named points at which a test may kill the process.

Each point stands in a window in which a crash could hurt: between a step and
its record, or between two commits.  ``DBSPLIT_CRASH_AT=name`` kills the process
there with SIGKILL, ``name:3`` at the third pass.  Without it a point costs one
dictionary lookup.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

POINTS = (
    "prepare.schema",
    "prepare.publication",
    "prepare.slot",
    "copy.table",
    "copy.data",
    "copy.chunk",
    "copy.built",
    "copy.copied",
    "copy.keys",
    "copy.caught_up",
    "copy.rest",
    "copy.after_data",
    "copy.done",
    "stream.received",
    "stream.staged",
    "stream.applied",
    "stream.committed",
    "stream.confirmed",
    "budget.noted",
    "validate.unit",
    "validate.range",
    "validate.opened",
    "position.held",
    "position.halted",
    "repair.written",
    "repair.committed",
    "refresh.noted",
    "refresh.plan",
    "refresh.published",
    "refresh.target",
    "refresh.decided",
    "refresh.slot",
    "refresh.copied",
    "refresh.brought_up",
    "refresh.joined",
    "refresh.caught_up",
    "cutover.reverse_slot",
    "cutover.target_closed",
    "cutover.validated",
    "cutover.paused",
    "cutover.fence_table",
    "cutover.fenced",
    "cutover.marker",
    "cutover.drained",
    "cutover.verified",
    "cutover.sequences",
    "cutover.owns",
    "cutover.opened",
    "cutover.switched",
    "cutover.certificate",
)

_passes: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("DBSPLIT_CRASH_AT")
    if not wanted:
        return
    if name not in POINTS:
        raise ValueError(f"no crash point is called {name!r}")
    point, _, nth = wanted.partition(":")
    if point != name:
        return
    _passes[name] += 1
    if _passes[name] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
