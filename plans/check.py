"""Checking a plan against its source: everything that somebody should know beforehand."""

from __future__ import annotations

from typing import Any

import psycopg

from plans import catalog_sql
from plans.catalog_read import read_catalog
from plans.check_boundary import check_dependents, check_foreign_keys
from plans.check_data import QUERY_TIMEOUT, ROWS_CODES, check_expressions, check_rows
from plans.check_derived import check_derived
from plans.check_encoding import check_encoding
from plans.check_identity import check_source_identity
from plans.check_labels import check_labels
from plans.check_orphans import check_orphans
from plans.check_parts import check_parts
from plans.check_relations import check_object_columns, check_relations
from plans.check_sequences import check_sequences, check_shared
from plans.check_subject import Subject
from plans.check_surroundings import check_surroundings
from plans.check_tables import check_switch, check_tables, check_way_back
from plans.check_targets import check_targets
from plans.check_writers import check_roles
from plans.compile import compile_all
from plans.dependents import read_dependents
from plans.findings import Finding, from_problem, ordered
from plans.holders import require_unlocked
from plans.lists import check_lists
from plans.load import Plan
from plans.problems import PlanProblems, Problem


def check_source(plan: Plan, conn: psycopg.Connection[Any]) -> list[Finding]:
    """Read the source's catalog, compile the plan, and check both.

    What keeps the plan from being compiled is among the findings, as a blocker;
    what can be checked besides is checked.  `conn` must not be in a transaction.
    """
    _, findings = _checked(plan, conn)
    return ordered(findings)


def check_split(plan: Plan, conn: psycopg.Connection[Any]) -> list[Finding]:
    """The same, and what the targets could not have; those that don't answer get a note."""
    subject, findings = _checked(plan, conn)
    if subject is not None:
        findings += check_targets(subject, conn, findings)
    return ordered(findings)


def also_wrong(plan: Plan, wrong: PlanProblems, conn: psycopg.Connection[Any]) -> PlanProblems:
    """What is wrong in itself, and what contradicts the source besides.

    `plan` is the rest of it, see `plans.load.without_wrong`.
    """
    taken_out = {problem.at[:2] for problem in wrong.problems}
    compiled = compile_all(plan, read_catalog(conn, plan.source.schemas))
    more = [
        problem
        for problem in compiled.problems
        if problem.at[:1] in (("tables",), ("source",)) and problem.at[:2] not in taken_out
    ]
    return PlanProblems(plan.places.file, sorted([*wrong.problems, *more], key=_line))


def _line(problem: Problem) -> tuple[int, int]:
    line, column = problem.place.rsplit(":", 2)[1:]
    return int(line), int(column)


def _checked(plan: Plan, conn: psycopg.Connection[Any]) -> tuple[Subject | None, list[Finding]]:
    """The findings, with the subject if the plan could be compiled.

    NotReady if a table is locked: half of what is checked would wait for it.
    """
    require_unlocked(conn)
    catalog = read_catalog(conn, plan.source.schemas)
    compiled = compile_all(plan, catalog)
    subject = Subject.of(plan, catalog, compiled.routes)
    if compiled.problems:
        problems = [from_problem(problem) for problem in compiled.problems]
        return None, [*problems, *_from_catalog(subject)]
    return subject, _all(subject, conn)


def _all(subject: Subject, conn: psycopg.Connection[Any]) -> list[Finding]:
    findings = _from_catalog(subject)
    findings += check_dependents(subject, read_dependents(conn, subject.catalog))
    with conn.transaction():
        conn.execute(catalog_sql.READ_ONLY)
        conn.execute(QUERY_TIMEOUT)
        findings += check_relations(subject, conn)
        findings += check_encoding(subject, conn)
        findings += check_expressions(subject, conn)
        findings += check_labels(subject, conn)
        findings += check_rows(subject, conn)
        findings += check_orphans(subject, conn)
        contested = {one.object for one in findings if one.code in ROWS_CODES}
        findings += check_parts(subject, conn, contested)
        findings += check_derived(subject, conn)
        findings += check_sequences(subject, conn)
        findings += check_roles(subject, conn)
        findings += check_surroundings(subject, conn)
    findings += check_lists(subject, conn)
    return findings


def _from_catalog(subject: Subject) -> list[Finding]:
    return [
        *check_switch(subject),
        *check_tables(subject),
        *check_source_identity(subject),
        *check_object_columns(subject),
        *check_way_back(subject),
        *check_foreign_keys(subject),
        *check_shared(subject),
    ]
