"""The crash points, by the verb that passes them."""

from __future__ import annotations

from cdc.crash import POINTS


def _of(verb: str) -> tuple[str, ...]:
    return tuple(point for point in POINTS if point.startswith(f"{verb}."))


PREPARE = _of("prepare")
COPY = _of("copy")
STREAM = _of("stream")
VALIDATE = _of("validate")
BY_KEYS = ("validate.unit",)
BY_BLOCKS = tuple(point for point in VALIDATE if point not in BY_KEYS)
POSITION = _of("position")
BUDGET = _of("budget")
BESIDE = ("refresh.slot", "refresh.brought_up", "refresh.joined")
REFRESH = tuple(point for point in _of("refresh") if point not in BESIDE)
REPAIR = _of("repair")
MOVE = _of("cutover")  # a rollback passes the same
