"""The lists of a report: tables, contradictions, transitions, events, servers."""

from __future__ import annotations

from toolkit.report.amounts import count, many, span, time_of_day
from toolkit.report.markup import Markup, element, with_code
from toolkit.report.model import IllegalTransition, Report, TableRow
from toolkit.report.page import section, table

LISTED_MAX = 50  # of the contradictions and transitions; the databases have them all
_EVENTS_MAX = 400


def tables_section(report: Report) -> Markup:
    """Every compared route, those that are not equal first."""
    title = "The tables, row by row"
    if not report.tables:
        return section(title, lead="No table was compared.")
    ordered = sorted(report.tables, key=lambda t: t.is_equal)
    equal = sum(t.is_equal for t in ordered)
    rows = sum(t.rows or 0 for t in ordered)
    lead = f"{equal} of {many(len(ordered), 'table', 'tables')} equal, {count(rows)} rows compared."
    head = element("tr", *(_heading(name, numeric=i > 2) for i, name in enumerate(_COLUMNS)))
    body = [_table_row(row) for row in ordered]
    drawn = element("table", element("thead", head), element("tbody", *body), class_="tables")
    return section(title, element("div", drawn, class_="scroll"), lead=lead)


_COLUMNS = ("Service", "Table", "Kind", "Rows", "Missing", "Extra", "Different", "State")
_DETAILS = frozenset({"Kind", "Missing", "Extra", "Different"})  # a phone leaves them out


def _heading(name: str, *, numeric: bool) -> Markup:
    words = "number" if numeric and name != "State" else "words"
    return element("th", name, scope="col", class_=f"{words} detail" if name in _DETAILS else words)


def _table_row(row: TableRow) -> Markup:
    return element(
        "tr",
        element("td", row.service, class_="muted"),
        element("th", row.table, scope="row"),
        element("td", row.kind, class_="muted detail"),
        element("td", count(row.rows), class_="number"),
        *(_difference(number) for number in (row.missing, row.extra, row.different)),
        element("td", _state(row), class_="state " + _tone(row)),
    )


def _difference(number: int | None) -> Markup:
    return element("td", count(number), class_="number detail" + ("" if number else " zero"))


def _state(row: TableRow) -> str:
    parts = ((row.missing, "missing"), (row.extra, "extra"), (row.different, "different"))
    told = ", ".join(f"{count(number)} {word}" for number, word in parts if number)
    if told and row.state.lower() == "different":
        return told
    return f"{row.state}: {told}" if told else row.state


def _tone(row: TableRow) -> str:
    if row.differences:
        return "bad"
    return "good" if row.is_equal else "doubt"


def contradictions_section(report: Report) -> Markup | None:
    """Orders whose three statuses disagreed, and what became of them."""
    total = max(report.contradictions_total, len(report.contradictions))
    if not total:
        return None
    rows = [
        (str(c.order_id), *(_status(s) for s in (c.shop, c.crm, c.mes)), c.resolved, c.why)
        for c in report.contradictions[:LISTED_MAX]
    ]
    columns = ("Order", "Shop", "CRM", "MES", "Resolved to", "Why")
    verb = "The plan's rule decided each. "
    said = f"{many(total, 'order was', 'orders were')} in different states in different systems. "
    lead = said + verb + _shown(len(rows), total)
    return section(
        "Orders that contradicted themselves", table(columns, rows, kind="told"), lead=lead
    )


def transitions_section(report: Report) -> Markup | None:
    """Steps in the orders' histories that their states do not allow."""
    total = max(report.illegal_transitions_total, len(report.illegal_transitions))
    if not total:
        return None
    rows = [_transition(t) for t in report.illegal_transitions[:LISTED_MAX]]
    columns = ("Order", "In the history of", "From", "To", "Why it is not allowed")
    found = many(total, "step in the orders' histories is", "steps in the orders' histories are")
    lead = f"{found} not allowed by the states of an order. " + _shown(len(rows), total)
    return section(
        "Transitions that should not have been", table(columns, rows, kind="told"), lead=lead
    )


def _transition(step: IllegalTransition) -> tuple[str, ...]:
    return (str(step.order_id), step.source, _status(step.before), step.after, step.why)


def _status(status: str | None) -> str:
    return "—" if status is None else status


def _shown(shown: int, total: int) -> str:
    return f"The first {shown} of {total:,} are listed." if shown < total else ""


def events_section(report: Report) -> Markup | None:
    """What happened, line by line."""
    if not report.events:
        return None
    events = sorted(report.events, key=lambda event: event.at)[:_EVENTS_MAX]
    rows = [
        element(
            "tr",
            element("th", span(max(e.at - report.started_at, 0)), scope="row"),
            element("td", time_of_day(e.at), class_="clock"),
            element("td", with_code(e.text)),
        )
        for e in events
    ]
    heads = [
        element("th", name, scope="col", class_="clock" if name == "UTC" else None)
        for name in ("After", "UTC", "What")
    ]
    body = element(
        "table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="events"
    )
    left_out = len(report.events) - len(events)
    note = (
        element("p", f"{left_out:,} later events are left out.", class_="note")
        if left_out
        else None
    )
    return section("What happened, line by line", element("div", body, class_="scroll"), note)


def servers_section(report: Report) -> Markup | None:
    """The servers that took part."""
    if not report.servers:
        return None
    rows = [(server.name, server.role, server.version) for server in report.servers]
    return section("Servers", table(("Name", "Role", "Version"), rows))


def proof_section(report: Report) -> Markup:
    """How the figures came about, in plain words."""
    return section("How it was proven", element("ul", *map(_item, _proof(report)), class_="prose"))


def next_section(report: Report) -> Markup | None:
    """What to do now."""
    if not report.next_steps:
        return None
    return section("What to do next", element("ol", *map(_item, report.next_steps), class_="prose"))


def _proof(report: Report) -> list[str]:
    told = []
    if report.figures.acknowledged is not None:
        told.append(
            "Each application wrote down, outside the databases, every commit that was "
            "acknowledged to it. Afterwards each of them was looked up in the database that "
            "owns it now: not there is missing, there more than once is doubled."
        )
    told.append(
        "Every row was compared inside the databases: the plan's expression over the source "
        "against the columns of the target. A row that could not be read counts as not verified, "
        "never as equal."
    )
    if report.pauses:
        told.append(
            "In each pause a trigger on every moved table refused application writes, a marker "
            "was written to the log after the last of them, and the other side was opened only "
            "when everything up to that marker was applied there and the rows that had changed "
            "since they were last compared had been compared again."
        )
    return told


def _item(text: str) -> Markup:
    return element("li", with_code(text))
