"""One thing that servers have to fulfil, and whether they do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from plans.errors import NotReady


@dataclass(frozen=True, slots=True)
class Need:
    """One requirement, and whether it is fulfilled."""

    need: str
    ok: bool
    observed: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def require(needs: Iterable[Need]) -> None:
    """Raise NotReady that names everything that is missing."""
    missing = [need for need in needs if not need.ok]
    if missing:
        raise missing_error(missing)


def missing_error(missing: Sequence[Need]) -> NotReady:
    """The error that names all of these, a line each; a remedy for several is told once."""
    lines = [f"{need.need}: {need.observed}" for need in missing]
    if len(lines) > 1:
        lines = [f"{len(lines)} needs are not met", *(f"  {line}" for line in lines)]
    remedies = dict.fromkeys(need.remedy for need in missing if need.remedy)
    return NotReady("\n".join(lines), hint="; ".join(remedies))
