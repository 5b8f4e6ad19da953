"""Checking a plan against its source: everything that somebody should know beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from plans import catalog_sql
from plans.catalog import Catalog
from plans.catalog_read import read_catalog
from plans.check_boundary import check_dependents, check_foreign_keys, check_sequences
from plans.check_data import QUERY_TIMEOUT, check_expressions, check_rows, check_server
from plans.check_subject import Subject
from plans.check_tables import check_switch, check_tables, check_way_back
from plans.compile import compile_all
from plans.dependents import read_dependents
from plans.findings import Finding, from_problem, ordered
from plans.lists import check_lists
from plans.load import Plan
from plans.routes import Route


def check_source(plan: Plan, conn: psycopg.Connection[Any]) -> list[Finding]:
    """Read the source's catalog, compile the plan, and check both.

    What keeps the plan from being compiled is among the findings, as a blocker;
    what can be checked besides is checked.  `conn` must not be in a transaction.
    """
    catalog = read_catalog(conn, plan.source.schemas)
    compiled = compile_all(plan, catalog)
    problems = [from_problem(problem) for problem in compiled.problems]
    if problems:
        subject = Subject.of(plan, catalog, compiled.routes)
        return ordered([*problems, *_from_catalog(subject)])
    return check_plan(plan, catalog, compiled.routes, conn)


def check_plan(
    plan: Plan, catalog: Catalog, routes: Sequence[Route], source_conn: psycopg.Connection[Any]
) -> list[Finding]:
    """All findings on a plan that compiles, blockers first.

    Reads the source in a transaction of its own, and changes nothing.
    """
    subject = Subject.of(plan, catalog, routes)
    findings = _from_catalog(subject)
    with source_conn.transaction():
        source_conn.execute(catalog_sql.READ_ONLY)
        source_conn.execute(QUERY_TIMEOUT)
        findings += check_dependents(subject, read_dependents(source_conn, catalog))
        findings += check_expressions(subject, source_conn)
        findings += check_rows(subject, source_conn)
        findings += check_server(subject, source_conn)
    findings += check_lists(subject, source_conn)
    return ordered(findings)


def _from_catalog(subject: Subject) -> list[Finding]:
    return [
        *check_switch(subject),
        *check_tables(subject),
        *check_way_back(subject),
        *check_foreign_keys(subject),
        *check_sequences(subject),
    ]
