"""Statements as the parser reads them, held against the server's own plans."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from plans.catalog import Catalog
from plans.statements.explained import explained_tables
from plans.statements.model import Statement

TOTAL_S_MAX = 20.0
"""Planning a statement takes milliseconds; ten thousand of them are not planned."""


@dataclass(slots=True)
class Confirmation:
    """Asks the server what it would touch; servers before 16 have no answer.

    A table of the plan that was not found is no touch of the statement: a temporary table
    may have its name.  It makes the statement unproven, so that somebody looks.
    """

    conn: psycopg.Connection[Any]  # not in a transaction
    catalog: Catalog
    left_s: float = TOTAL_S_MAX

    def __call__(self, statement: Statement, search_path: Sequence[str] | None) -> Statement:
        """The statement, unproven if the server's plan names more tables."""
        if self.left_s <= 0:
            return statement
        began = time.monotonic()
        planned = explained_tables(self.conn, statement.text, search_path or self.catalog.schemas)
        self.left_s -= time.monotonic() - began
        more = sorted((planned or frozenset()) & self.catalog.tables.keys() - statement.tables)
        if not more:
            return statement
        said = f"the server's plan also names {', '.join(map(str, more))}"
        return replace(statement, unproven=(*statement.unproven, said))
