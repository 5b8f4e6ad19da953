"""In which schemas a statement that was executed looked for unqualified names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from plans.statements.settings import path_names
from plans.usage import statistics_sql
from plans.usage.model import Executed

Paths = Mapping[str, tuple[str, ...]]
"""Those that roles have by ALTER ROLE; "" is the database's."""

_SET = re.compile(
    r"\s*SET\s+(?:SESSION\s+)?search_path\s*(?:=|\bTO\b)\s*(?P<value>[^;]*?)\s*;?\s*\Z",
    re.IGNORECASE,
)
_RESET = re.compile(
    r"\s*(?:RESET\s+(?:search_path|ALL)|DISCARD\s+ALL"
    r"|SET\s+(?:SESSION\s+)?search_path\s*(?:=|\bTO\b)\s*DEFAULT)\b",
    re.IGNORECASE,
)


def role_paths(conn: psycopg.Connection[Any]) -> Paths:
    """The paths that the database and its roles are set to."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(statistics_sql.SEARCH_PATHS).fetchall()
    return {row["role"]: path_names(row["path"]) for row in rows}


def path_of(one: Executed, paths: Paths, schemas: Sequence[str]) -> tuple[str, ...] | None:
    """The path of one statement; None is the plan's schemas in their order."""
    set_ = one.search_path or paths.get(one.actor.role) or paths.get("")
    if set_ or one.actor.role not in schemas:
        return set_ or None
    return (one.actor.role, *schemas)  # by PostgreSQL's default a role's own schema is first


class SessionPaths:
    """What the sessions of a log have set their paths to, as far as the log tells."""

    def __init__(self) -> None:
        self._paths: dict[str, tuple[str, ...]] = {}

    def after(self, session: str, text: str) -> tuple[str, ...] | None:
        """Take a session's next statement in; return the path under which it runs."""
        before = self._paths.get(session)
        if _RESET.match(text):
            self._paths.pop(session, None)
        elif session and (match := _SET.match(text)):
            self._paths[session] = path_names(match["value"].replace("'", '"'))
        return before
