"""Findings on values of enums that expressions compare as texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg

from plans.check_parts import LABELS
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.label_texts import compared_texts
from plans.routes import Route

Connection = psycopg.Connection[Any]


def check_labels(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Constants that no row's enum has, and with which its text is compared all the same."""
    labels = {row["type"]: row["labels"] for row in subject.held(conn, LABELS)}
    for route in subject.routes:
        for column, type_, value in labels_compared(route, labels):
            if value in labels[type_]:
                continue
            yield subject.finding(
                Severity.WARNING, "label-unknown", route.id, subject.path_of(route),
                f"the text of {column} is compared with {value!r}, which is no value of {type_}"
                f" ({', '.join(labels[type_])})",
                why="no row has it; it may have been renamed",
                remedy="write the value as it is called now",
            )  # fmt: skip


def labels_compared(
    route: Route, labels: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, str]]:
    """Each column with an enum of these, its type, and what its text is compared with."""
    types = {one.name: one.type for one in route.source.columns if one.type in labels}
    texts = [column.expression for column in route.columns if column.plain is None]
    texts += [route.where] if route.where is not None else []
    found = {pair: None for text in texts if types for pair in compared_texts(text, types)}
    yield from ((column, types[column], value) for column, value in found)
