"""Findings on what of the source's schema a service's database will not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg

from plans.catalog import Catalog, TableName
from plans.check_subject import Subject
from plans.errors import PlanInvalid
from plans.findings import Finding, Severity
from plans.schema.ddl import LeftOut, Target
from plans.schema.target import target_schemas

Connection = psycopg.Connection[Any]

# The first word of what is left out, the code, and what it means that it is missing there.
KINDS: Final = {
    "default": (
        Severity.WARNING, "default-left-out",
        "an insert that relies on it puts NULL there, or is refused",
    ),
    "generated": (
        Severity.BLOCKER, "generated-left-out", "its table there would have no such column at all",
    ),
    "check": (Severity.WARNING, "check-left-out", "nothing enforces the condition there"),
    "constraint": (Severity.WARNING, "key-left-out", "nothing enforces the key there"),
    "policy": (
        Severity.WARNING, "policy-left-out",
        "row level security without a policy shows an application no rows",
    ),
    "rule": (Severity.WARNING, "rule-left-out", "what it did doesn't happen there"),
    "trigger": (Severity.WARNING, "trigger-left-out", "what it did doesn't happen there"),
}  # fmt: skip
OTHER: Final = (Severity.NOTE, "left-out", "whoever uses it there has to do without")

_KIND = re.compile(r"^(materialized view|statistics object|\w+) ")

# What is told already, and what nobody would expect.
_ON_A_COPY: Final = ("which only the stream writes", "whose rows are checked by their owner")


def check_left_out(
    subject: Subject, source: Connection, targets: Sequence[Target]
) -> Iterator[Finding]:
    """One finding for each; keys that are cut are left to `check_boundary`."""
    schemas = target_schemas(source, subject.catalog.schemas, subject.routes, targets)
    for target, schema in zip(targets, schemas, strict=True):
        if isinstance(schema, PlanInvalid):
            yield subject.finding(
                Severity.BLOCKER, "schema-impossible", target.service,
                ("services", target.service), str(schema), remedy=schema.hint,
            )  # fmt: skip
            continue
        for left in schema.left_out:
            if not left.reason.endswith(_ON_A_COPY) and not _is_cut(left):
                yield _finding(subject, target.service, left)


def _is_cut(left: LeftOut) -> bool:
    """Whether it is a key that crosses the boundary, and not one that the server cannot have."""
    return left.object.startswith("foreign key ") and not left.reason.startswith("PostgreSQL ")


def _finding(subject: Subject, service: str, left: LeftOut) -> Finding:
    severity, code, why = KINDS.get(left.object.partition(" ")[0], OTHER)
    table = _table(subject.catalog, left.object)
    lacking = f"change it so that it needs only what {service} has"
    remedy = f"do its work in {service}'s application, or {lacking}"
    if code == "generated-left-out":
        remedy = f"list it under `drop`, and {service} does without it; or {lacking}"
    return subject.finding(
        severity, code, f"{service}: {left.object}", table or ("services", service),
        f"{service} doesn't get it: {left.reason}",
        why=why,
        remedy=remedy,
    )  # fmt: skip


def _table(catalog: Catalog, text: str) -> TableName | None:
    """The table that the name of a thing ends with: "trigger t on public.x", "… public.x.c"."""
    name = text.rpartition(" ")[2]
    for candidate in (name, name.rpartition(".")[0]):
        found = catalog.find(candidate) if "." in candidate else None
        if found:
            return found.name
    return None


def not_told(left_out: Sequence[Finding], findings: Sequence[Finding]) -> Iterator[Finding]:
    """Of what is left out, that which no other finding is about."""
    told = {_bare(finding.object) for finding in findings}
    # The names of a function's arguments are said by one and not by the other.
    across = (one.object for one in findings if one.code == "function-across")
    told |= {_bare(name).partition("(")[0] for name in across}
    for finding in left_out:
        service, _, thing = finding.object.partition(": ")
        name = _bare(_KIND.sub("", thing))
        if told.isdisjoint((name, f"{service}: {name}", name.partition("(")[0])):
            yield finding


def _bare(name: str) -> str:
    """A name as it is written without quotes, which some findings have and others don't."""
    return name.replace('"', "")
