"""Rows that differ, both sides beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from plans.routes import Route
from toolkit.report.amounts import many, moment
from toolkit.report.markup import Markup, element, join
from toolkit.report.page import section
from toolkit.validated import Validated
from validators.causes import CAUSES
from validators.results import ColumnDifference, Difference, TableResult

_OPEN_MAX = 25  # rows of a table that are shown unasked
_CONTEXT = 24  # equal characters shown around what differs
_WRITERS = {
    "applier": "the stream",
    "before": "written before the stream",
    "other": "somebody else",
}


def differing_section(validated: Validated) -> Markup | None:
    """For each table with differences, its rows, to be opened."""
    routes = {route.id: route for route in validated.routes}
    parts = [
        _of_table(validated, one, routes[one.route], number)
        for number, one in enumerate(validated.results)
        if validated.differences.get(one.route)
    ]
    if not parts:
        return None
    lead = (
        "What both sides hold. What is marked differs; equal columns are left out. "
        "NULL is a value that is absent, “” an empty one."
    )
    return section("The rows that differ", *parts, lead=lead)


def _of_table(validated: Validated, one: TableResult, route: Route, number: int) -> Markup:
    shown = validated.differences[one.route]
    found = one.missing + one.extra + one.different
    listed = sum(difference.rows for difference in shown)
    leads = validated.leads.get(one.route, "source")
    head = element(
        "tr",
        *(element("th", name, scope="col") for name in ("Row", "Column", "Source", "Target")),
    )
    groups = [_of_row(difference, route, is_source=leads == "source") for difference in shown]
    drawn = element("table", element("thead", head), *groups, class_="beside")
    more = max(found - listed, 0)
    note = (
        element(
            "p",
            f"{more:,} more are in dbsplit.difference of the source,"
            " and in the files of --differences and --csv.",
            class_="note",
        )
        if more
        else None
    )
    left_out = validated.left_out.get(one.route)
    kept = (
        element("p", f"{left_out:,} of them were counted and not kept.", class_="note")
        if left_out
        else None
    )
    name = f"{one.service}.{str(one.table).removeprefix('public.')}"
    summary = element(
        "summary",
        element("strong", name),
        element("span", many(found, "row", "rows"), class_="muted"),
        element("span", _counts(one), class_="muted"),
    )
    return element(
        "details",
        summary,
        element("div", drawn, class_="scroll"),
        note,
        kept,
        class_="drill",
        id=f"rows-{number}",
        open="" if len(shown) <= _OPEN_MAX else None,
    )


def _counts(one: TableResult) -> str:
    parts = ((one.missing, "missing"), (one.extra, "extra"), (one.different, "different"))
    return ", ".join(f"{number:,} {word}" for number, word in parts if number)


def _of_row(one: Difference, route: Route, *, is_source: bool) -> Markup:
    columns = one.columns or (ColumnDifference("", None, None),)
    first = element("th", _row_head(one, route), scope="rowgroup", rowspan=len(columns))
    lines = []
    for number, column in enumerate(columns):
        cells = _cells(one, column, is_source=is_source)
        name = element("th", column.column or "—", scope="row", class_="column")
        lines.append(element("tr", first if number == 0 else None, name, *cells))
    return element("tbody", *lines)


def _row_head(one: Difference, route: Route) -> Markup:
    key = [
        element("span", element("span", name, class_="muted"), " ", _value(part), class_="key")
        for name, part in zip(route.key, one.key, strict=False)
    ]
    if not one.key:
        key = [element("span", many(one.rows, "copy", "copies"), class_="key")]
    written = _WRITERS.get(one.written.by)
    when = moment(one.written.at.timestamp()) if one.written.at else ""
    return join(
        [
            *key,
            element("span", one.how, class_=f"how {one.how}"),
            element("span", CAUSES[one.cause], class_="why") if one.cause != "unknown" else None,
            element("span", f"{written} {when}".strip(), class_="why") if written else None,
        ]
    )


def _cells(one: Difference, column: ColumnDifference, *, is_source: bool) -> Sequence[Markup]:
    if not one.columns:
        said = element("td", "changed again since", colspan=2, class_="muted")
        return [said]
    leader, follower = _marked(column.leader, column.follower)
    sides = ("source", "target") if is_source else ("target", "source")
    held = (one.how != "extra", one.how != "missing")
    cells = [
        element("td", value if is_there else "no row", class_=f"{side} value" if is_there else side)
        for value, side, is_there in zip((leader, follower), sides, held, strict=True)
    ]
    return cells if is_source else cells[::-1]


def _marked(one: str | None, other: str | None) -> tuple[Markup, Markup]:
    """Both values; what they do not share is marked."""
    if one is None or other is None or not one or not other:
        return _value(one), _value(other)
    start = _common(one, other)
    left = min(len(one), len(other)) - start
    end = min(_common(one[::-1], other[::-1]), left)
    if start + end == 0:
        return _value(one), _value(other)
    return _part(one, start, end), _part(other, start, end)


def _common(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _part(text: str, start: int, end: int) -> Markup:
    head, middle, tail = text[:start], text[start : len(text) - end], text[len(text) - end :]
    if len(head) > _CONTEXT:
        head = f"…{head[-_CONTEXT:]}"
    if len(tail) > _CONTEXT:
        tail = f"{tail[:_CONTEXT]}…"
    # A space alone would be a mark that nobody sees.
    shown = middle.replace(" ", "␣") if middle.strip() == "" else middle
    return join([head, element("mark", shown) if middle else element("mark", "‸"), tail])


def _value(text: str | None) -> Markup:
    if text is None:
        return element("span", "NULL", class_="null")
    if text == "":
        return element("span", "“”", class_="null")
    return join([text])
