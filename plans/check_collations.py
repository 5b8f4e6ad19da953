"""What sorts and folds text otherwise in a target than in the source."""

from __future__ import annotations

from collections.abc import Iterator

from plans.catalog import Column
from plans.check_subject import Subject
from plans.collation_use import Use, collation_uses
from plans.expressions import quoted
from plans.findings import Finding, Severity
from plans.routes import Kind, Route
from plans.some import some
from plans.target_facts import Facts

_TEXT = ("text", "character", "name", "citext", "public.citext")
_SAID = {
    Use.ORDER: "the order",
    Use.CASE: "upper and lower case",
    Use.EQUALITY: "the equality",
}


def check_collations(
    subject: Subject, service: str, ours: Facts, theirs: Facts
) -> Iterator[Finding]:
    """Collations that a target cannot have, and what would mean something else there."""
    yield from _check_columns(subject, service, ours, theirs)
    yield from _check_uses(subject, service, ours, theirs)


def _check_columns(subject: Subject, service: str, ours: Facts, theirs: Facts) -> Iterator[Finding]:
    routes = [route for route in subject.routes if route.service == service and route.kind.owned]
    for route in routes:
        for column in route.source.columns:
            if column.collation and _lacks(column.collation, ours, theirs):
                yield subject.finding(
                    Severity.BLOCKER, "collation-absent", f"{route.source.name}.{column.name}",
                    route.source.name,
                    f"the server of {service} cannot have its collation {column.collation}",
                    why="the table cannot be made there",
                    remedy="use a server that is built with ICU and has the locale, or another"
                    " collation for the column",
                )  # fmt: skip
    here, there = _default(ours), _default(theirs)
    if here == there:
        return
    keys = [str(route.source.name) for route in routes if _has_text_key(route)]
    differs = here[:2] != there[:2]
    yield subject.finding(
        Severity.WARNING if differs and keys else Severity.NOTE,
        "collation-differs", service, ("services", service),
        f"text is sorted by {_named(there)} there, and by {_named(here)} on the source",
        why="ORDER BY, ranges of text and partitions by text give other results"
        + (f"; of the keys those of {some(keys)} are text" if keys else ""),
        remedy="create the database with the source's locale (TEMPLATE template0 LOCALE …), or see"
        " that no application relies on the order",
    )  # fmt: skip


def _lacks(collation: str, ours: Facts, theirs: Facts) -> bool:
    """Whether the target has neither the collation nor what it would be made of."""
    if collation in theirs.collations:
        return False
    if collation.startswith("pg_catalog."):
        return True
    return ours.collations.get(collation, False) and not any(theirs.collations.values())


def _named(collation: tuple[str | None, ...]) -> str:
    provider, locale, version = collation
    kind = {"c": "libc", "i": "ICU", "b": "builtin"}.get(provider or "", provider)
    return f"{kind} {locale}" + (f" ({version})" if version else "")


def _has_text_key(route: Route) -> bool:
    return any(
        column.name in route.key and column.collation is None and column.type.startswith(_TEXT)
        for column in route.source.columns
    )


def _check_uses(subject: Subject, service: str, ours: Facts, theirs: Facts) -> Iterator[Finding]:
    """Expressions whose value depends on a collation that the stream does not have."""
    for route in subject.routes:
        if route.service != service:
            continue
        texts = [column.expression for column in route.columns if column.plain is None]
        texts += [route.where] if route.where is not None else []
        uses = {use for text in texts for use in collation_uses(text)}
        for name, use in sorted(uses, key=lambda one: (one[0], one[1].value)):
            column = route.source.column(name)
            if not _is_other(route, column, use, ours, theirs):
                continue
            here = column.collation or _named(_default(ours))
            yield subject.finding(
                Severity.WARNING if use is Use.CASE else Severity.BLOCKER,
                "expression-collation", f"{route.id}: {name}", subject.path_of(route),
                f"an expression depends on {_SAID[use]} of {name}, which is that of {here} on the"
                f" source and of {_named(_default(theirs))} where the stream computes it",
                why="rows that change would get another value than those that are copied, or go to"
                " another service",
                remedy=f'say which one is meant, such as ({quoted(name)} COLLATE "C")'
                + ("" if column.collation else ", or create the database with the source's locale"
                   " (TEMPLATE template0 LOCALE …)"),
            )  # fmt: skip


def _is_other(route: Route, column: Column, use: Use, ours: Facts, theirs: Facts) -> bool:
    """Whether a use of the column's text may give another value in the target."""
    if column.collation is None:
        here = _default(ours)[:2]
        return (
            column.type.startswith(_TEXT)
            and use is not Use.EQUALITY
            and _like(here, use) != _like(_default(theirs)[:2], use)
        )
    if route.kind is Kind.ROWS:
        return False  # the stream's stage has the collations of what divides rows
    if use is Use.EQUALITY:
        return column.collation in ours.loose
    plain = {'pg_catalog."C"': "C", 'pg_catalog."POSIX"': "C"}.get(column.collation)
    return plain is None or _like(("c", plain), use) != _like(_default(theirs)[:2], use)


def _like(collation: tuple[str | None, ...], use: Use) -> tuple[str | None, ...]:
    """The same for collations that do the same."""
    provider, locale = collation
    name = (locale or "").lower().replace("-", "").replace("posix", "c")
    if use is Use.ORDER and name in {"c", "c.utf8"}:
        return ("code points",)
    return provider, name


def _default(facts: Facts) -> tuple[str | None, ...]:
    database = facts.database
    return database["provider"], database["locale"], database["collation_version"]
