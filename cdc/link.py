"""Links: one leader, one follower, and what flows between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cdc.flow import Flow
from cdc.lsn import LSN


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One leader and one follower, and what flows between them."""

    split: str
    service: str
    stream: str  # the progress row's name
    origin: str  # ours in the follower, by which the other direction knows echo
    echoes: frozenset[str]  # origins in the leader whose changes the follower has
    foreign: frozenset[str]  # origins in the leader of other services' followers
    leader_dsn: str
    follower_dsn: str
    flows: tuple[Flow, ...]
    horizons: Mapping[str, LSN] = field(default_factory=dict)  # route → where its copy ends
    types: Mapping[str, str] = field(default_factory=dict)  # the stages' type names
    backwards: bool = False
    of_several_moments: bool = False
    """The follower may hold rows of later than the stream is: of a copy in chunks that went on."""
    sharing: int = 1
    """How many followers hold rows in the memory of one process."""

    def share(self, of: int) -> int:
        """Its part of so many bytes, which are what a follower alone may hold.

        Several hold a quarter more than one does, until each has an eighth.
        """
        return min(of, max(of * 5 // 4 // self.sharing, of // 8))
