"""A validation that nobody has run, for what is made of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from plans.catalog import Column, Table, TableName
from plans.routes import Kind, Route, RouteColumn
from toolkit.differences import Class
from toolkit.validated import Timed, Validated
from validators.results import (
    ColumnDifference,
    Difference,
    TableResult,
    Written,
)
from validators.rules.rule import RuleResult

T0 = 1_772_719_321.25
HOSTILE = "<script>alert('x')</script>"
AT = datetime(2026, 3, 5, 14, 2, 1, tzinfo=UTC)


def route(service: str, name: str, **changes: Any) -> Route:
    """A route of a table with three columns."""
    names = ("id", "email", "total")
    table = Table(
        name=TableName("public", name),
        kind="r",
        columns=tuple(Column(name=n, type="text", is_portable=True) for n in names),
        primary_key=("id",),
    )
    columns = tuple(RouteColumn(n, f'"{n}"', frozenset({n}), "text", n, binary=True) for n in names)
    made = Route(
        id=f"{service}:public.{name}",
        service=service,
        owner=service,
        kind=Kind.WHOLE,
        source=table,
        target=table.name,
        columns=columns,
        key=("id",),
    )
    return replace(made, **changes)


DIFFERENCES = (
    Difference(
        ("1017",),
        "different",
        (
            ColumnDifference("email", "anna.müller@example.org", "anna.mÃ¼ller@example.org"),
            ColumnDifference("total", "1249.90", "1249.9"),
        ),
        version=7,
        written=Written("applier", AT),
        cause="encoding",
    ),
    Difference(
        ("1018",),
        "different",
        (ColumnDifference("email", HOSTILE, None), ColumnDifference("total", "", "0")),
        written=Written("other", AT),
        cause="written-there",
    ),
    Difference(
        ("<b>1019</b>",),
        "missing",
        tuple(ColumnDifference(n, v, None) for n, v in (("id", "1019"), ("email", "x@y\n"))),
        cause="not-arrived",
    ),
    Difference(
        ("1020",),
        "extra",
        tuple(ColumnDifference(n, None, v) for n, v in (("id", "1020"), ("email", "trailing "))),
        written=Written("other", AT),
        cause="written-there",
    ),
    Difference(
        ("1021",),
        "different",
        (ColumnDifference("email", "same", "same "),),
        written=Written("before", AT),
        cause="white-space",
    ),
    Difference(("1022",), "different", ()),
)


def result(one: Route, **changes: Any) -> TableResult:
    """The result of a route, equal unless changed."""
    made = TableResult(
        table=one.target, service=one.service, route=one.id, state="equal", rows=120_000,
        elapsed_s=1.8, healed=3, collision_bound=2.2e-14,
    )  # fmt: skip
    return replace(made, **changes)


ROUTES = (
    route("shop", "orders"),
    route("shop", "order_items"),
    route("crm", "customers"),
    route("crm", HOSTILE),
    route("orchestrator", "order_state"),
)


def invented(*, equal: bool = False, rules: Sequence[RuleResult] | None = None) -> Validated:
    """Five tables, of which one differs and one could not be told; or all are equal."""
    results = [result(one) for one in ROUTES]
    classes: dict[str, dict[Class, int]] = {}
    shown: dict[str, Sequence[Difference]] = {}
    if not equal:
        orders = ROUTES[0]
        results[0] = result(
            orders, state="different", missing=1, extra=1, different=1_204,
            examples=DIFFERENCES,
        )  # fmt: skip
        results[3] = result(ROUTES[3], state="unverified", reason=f"timeout {HOSTILE}")
        shown = {orders.id: DIFFERENCES}
        classes = {
            orders.id: {
                ("different", "outdated", "applier"): 900,
                ("different", "written-there", "other"): 304,
                ("missing", "not-arrived", "unknown"): 1,
                ("extra", "written-there", "other"): 1,
            }
        }
    if rules is None:
        broken = RuleResult(
            rule=f"order totals {HOSTILE}", service="shop", table="orders", side="target",
            outcome="passed" if equal else "failed", unexpected=0 if equal else 3,
            examples=() if equal else ({"order": "17", "total": "12.00"}, {HOSTILE: HOSTILE}),
        )  # fmt: skip
        kept = RuleResult(
            rule="one current state", service="orchestrator", table="order_state",
            side="target", outcome="passed",
        )  # fmt: skip
        rules = (broken, kept)
    return Validated(
        split="crm-shop",
        planned=(*ROUTES, route("mes", "queue")),
        routes=ROUTES,
        results=tuple(results),
        leads={one.id: "source" for one in ROUTES},
        started_at=T0,
        ended_at=T0 + 9,
        times={one.id: Timed(T0 + n * 1.3, T0 + n * 1.3 + 1 + n) for n, one in enumerate(ROUTES)},
        differences=shown,
        classes=classes,
        lines={one.id: 12 + n for n, one in enumerate(ROUTES)},
        rules=tuple(rules),
    )
