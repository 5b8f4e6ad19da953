"""Ranges of a table's blocks, by which rows are read whose keys have no order; no I/O.

Where a row lies changes with each of its versions.  So all ranges together are the
table's rows only for one snapshot, and as long as its files stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from psycopg import sql

_BY_BLOCKS = MappingProxyType(
    {
        # Whatever else there is would read the whole table, or an index of it, each time.
        "enable_tidscan": "on",
        "enable_seqscan": "off",
        "enable_indexscan": "off",
        "enable_indexonlyscan": "off",
        "enable_bitmapscan": "off",
        "max_parallel_workers_per_gather": "0",  # applications need the cores
    }
)


@dataclass(frozen=True, slots=True)
class Blocks:
    """The rows in blocks from `first` on, and below `below`; None is no bound.

    Of a partitioned table so many of each partition.
    """

    first: int | None = None
    below: int | None = None

    @property
    def condition(self) -> sql.Composable:
        """SQL that holds for these rows."""
        terms: list[sql.Composable] = []
        for operator, block in ((">=", self.first), ("<", self.below)):
            if block is not None:
                place = sql.Literal(f"({block},0)")
                terms.append(sql.SQL("ctid {} {}::tid").format(sql.SQL(operator), place))
        return sql.SQL(" AND ").join(terms) if terms else sql.SQL("true")

    @property
    def planner(self) -> Mapping[str, str]:
        """Settings with which only these blocks are read."""
        return MappingProxyType({}) if self == Blocks() else _BY_BLOCKS


def cut(blocks: int, parts: int) -> list[Blocks]:
    """All blocks, those too that come later, in so many ranges of about the same size."""
    marks = [blocks * part // parts for part in range(1, parts)]
    return [
        Blocks(first, below) for first, below in zip([None, *marks], [*marks, None], strict=True)
    ]
