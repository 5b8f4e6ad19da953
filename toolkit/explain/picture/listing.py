"""What stands below the picture: everything in it, in words, for reading and for printing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from plans.catalog import TableName
from plans.findings import Finding
from plans.routes import Kind, Route
from toolkit.explain.crossings import Crossing, End, entry_of
from toolkit.explain.outlook import Outlook
from toolkit.explain.picture.scene import Scene, made_rows, source_rows
from toolkit.explain.predictions import Size, about, sizes
from toolkit.report.amounts import count, many, size
from toolkit.report.markup import Markup, element, join
from toolkit.report.page import section
from toolkit.stages import Stage, not_reversible


def tables_section(outlook: Outlook, scene: Scene, crossings: Sequence[Crossing]) -> Markup:
    """The source's tables, and those that exist in a service alone."""
    known, lines = sizes(outlook), _plan_lines(outlook)
    head = (
        "Table", "Becomes", "Rows", "Size", "Written", "Key", "What crosses", "Findings",
        "In the plan",
    )  # fmt: skip
    body = [
        _row(row, _of_source(outlook, name, known, crossings, lines))
        for name, row in source_rows(outlook).items()
    ]
    body += [
        _row(row, _of_made(outlook, end, known, crossings, lines))
        for end, row in made_rows(outlook).items()
    ]
    return section(
        "Every table",
        _table(head, body, "everything"),
        lead="Rows are the planner's estimate, sizes are the source's with their indexes;"
        " written are rows since the statistics began.",
    )


def _of_source(
    outlook: Outlook,
    name: TableName,
    known: Mapping[str, Size],
    crossings: Sequence[Crossing],
    lines: Mapping[TableName, str],
) -> list[str | None]:
    table, measured = outlook.split.catalog.tables[name], outlook.measured[name]
    routes = [route for route in outlook.split.routes if route.source.name == name]
    kept = [route for route in routes if route.kind is not Kind.DERIVED]
    rows = max((known[r.id].rows for r in kept), default=table.rows_estimated)
    if len({r.kind for r in kept} & {Kind.ROWS}):
        rows = sum(known[r.id].rows for r in kept if r.kind is Kind.ROWS)
    indexes = sum(one.size_bytes for one in measured.indexes)
    written = join(
        element("div", f"{count(number)} {what}")
        for number, what in (
            (measured.inserted, "inserts"),
            (measured.updated, "updates"),
            (measured.deleted, "deletes"),
        )
        if number
    )
    held = {column.plain for route in kept for column in route.columns}
    held |= {one for route in kept for one in route.generated}
    parts = [_becomes(outlook, route) for route in routes]
    if left := [column.name for column in table.columns if column.name not in held]:
        parts.append(_line("left behind:", ", ".join(left)))
    leaves = many(len(table.leaves), "partition", "partitions")
    return [
        f"{name} ({leaves})" if table.leaves else str(name),
        join(parts),
        count(rows),
        size(table.size_bytes + indexes),
        written or "never",
        ", ".join(table.key) or "none",
        _crossing_list([c for c in crossings if name in (c.begin.table, c.end.table)]),
        _finding_list(_findings_of(outlook, name)),
        lines.get(name, ""),
    ]


def _of_made(
    outlook: Outlook,
    end: End,
    known: Mapping[str, Size],
    crossings: Sequence[Crossing],
    lines: Mapping[TableName, str],
) -> list[str | None]:
    routes = [r for r in outlook.split.routes if (r.service, r.target) == (end.service, end.table)]
    all_ = sum((known[route.id] for route in routes), Size())
    return [
        f"{end.table} in {end.service}",
        join(_line(f"from {route.source.name}:", _expressions(route)) for route in routes),
        count(all_.rows),
        size(all_.disk_bytes),
        "only by the stream",
        ", ".join(routes[0].key),
        _crossing_list([c for c in crossings if c.end == end]),
        _finding_list([f for r in routes for f in outlook.findings if f.object == r.id]),
        join(
            element("div", lines.get(name, ""))
            for name in dict.fromkeys(route.source.name for route in routes)
        ),
    ]


def _expressions(route: Route) -> str:
    computed = "; ".join(f"{column.name} = {column.expression}" for column in route.columns)
    return f"{computed}; where {route.where}" if route.where else computed


def _becomes(outlook: Outlook, route: Route) -> Markup:
    """What a service gets of a table: why, and which columns."""
    if route.kind is Kind.DERIVED:
        return _line(route.service, f"computed into {route.target}")
    owners = " and ".join(sorted(outlook.split.owners(route.source.name)))
    why = {
        Kind.WHOLE: "whole",
        Kind.COLUMNS: "some columns",
        Kind.ROWS: f"rows with {route.where}",
        Kind.REFERENCE: f"read-only copy of {owners}'s",
    }
    named = [
        column.name if column.plain == column.name else f"{column.name} = {column.expression}"
        for column in route.columns
    ]
    said = why[route.kind]
    return _line(route.service, f"{said}: {', '.join([*named, *route.generated])}")


def _line(head: str, text: str) -> Markup:
    return element("div", element("b", head), " ", text)


def _crossing_list(found: Sequence[Crossing]) -> Markup:
    told = dict.fromkeys(one.name for one in found)
    return join(element("div", text) for text in told)


def _finding_list(found: Sequence[Finding]) -> Markup:
    return join(
        element(
            "div",
            element("b", one.severity.value, class_=one.severity.value),
            f" {one.message}",
        )
        for one in found
    )


def _sentence(one: Finding) -> str:
    return "; ".join(part for part in (one.message, one.why) if part)


def _findings_of(outlook: Outlook, name: TableName) -> list[Finding]:
    """The findings that stand at a table's entry, or are about one of its routes or keys."""
    entry = entry_of(outlook.split, name)
    place = outlook.split.plan.place(entry) if entry else None
    routes = {route.id for route in outlook.split.routes if route.source.name == name}
    return [
        one
        for one in outlook.findings
        if one.object in routes
        or one.object == str(name)
        or one.object.startswith(f"{name}.")
        or (place is not None and one.place == place)
    ]


def _plan_lines(outlook: Outlook) -> dict[TableName, str]:
    """Each table's place in the plan, and the line that stands there."""
    plan = outlook.split.plan
    text = plan.path.read_text(encoding="utf-8").splitlines()
    found = {}
    for name in source_rows(outlook):
        path = entry_of(outlook.split, name)
        if path is None:
            continue
        line, _ = plan.places.mark(path, at_key=True)
        said = text[line - 1].strip() if line <= len(text) else ""
        found[name] = f"{line}: {said}"
    return found


def crossings_section(scene: Scene, crossings: Sequence[Crossing]) -> Markup:
    """Everything that crosses, bundle by bundle."""
    groups = []
    for bundle in scene.bundles:
        begin, end = (service or "left behind" for service in (bundle.begin, bundle.end))
        title = f"{bundle.sort.value.capitalize()}: {begin} and {end}"
        head = element("tr", element("th", title, scope="colgroup", colspan="5"))
        rows = [_row(row, _of_crossing(one), kind=None) for row, one in bundle.crossings]
        groups.append(element("tbody", head, *rows, id=bundle.id))
    drawn = {id(one) for bundle in scene.bundles for _, one in bundle.crossings}
    if rest := [one for one in crossings if id(one) not in drawn]:
        head = element("tr", element("th", "Within one service", scope="colgroup", colspan="5"))
        groups.append(element("tbody", head, *(_row(None, _of_crossing(one)) for one in rest)))
    if not groups:
        return section("What crosses", lead="Nothing: no service needs what another one has.")
    columns = ("What", "From", "To", "What becomes of it", "In the plan")
    drawn_head = element("thead", element("tr", *(element("th", c, scope="col") for c in columns)))
    return section(
        "What crosses",
        element("div", element("table", drawn_head, *groups, class_="crossing"), class_="scroll"),
        lead="What refers to, reads or is fed from the other side of a boundary between services.",
    )


def _of_crossing(one: Crossing) -> list[str | None]:
    return [
        one.name,
        f"{one.begin.service or 'left behind'}: {one.begin.table}",
        f"{one.end.service or 'left behind'}: {one.end.table}",
        one.how,
        one.place.rpartition("/")[2],
    ]


def left_out_section(outlook: Outlook) -> Markup | None:
    """What the targets do not get of the source, and why."""
    rows = [
        _row(None, [service, one.object, one.reason])
        for service, schema in outlook.schemas.items()
        for one in schema.left_out
    ]
    if not rows:
        return None
    return section("Left out", _table(("Service", "What", "Why"), rows, "left"))


def findings_section(outlook: Outlook) -> Markup:
    """All of `plan check`."""
    lead = "What dbsplit plan check says now."
    if not outlook.findings:
        return section("Findings", lead=f"{lead} It found nothing.")
    rows = [
        _row(None, [
            element("b", one.severity.value, class_=one.severity.value),
            one.object, _sentence(one), one.remedy, one.place.rpartition("/")[2],
        ])
        for one in outlook.findings
    ]  # fmt: skip
    head = ("", "About", "What was found", "What to do", "In the plan")
    return section("Findings", _table(head, rows, "found"), lead=lead)


def stages_section(stages: Sequence[Stage]) -> Markup:
    """The steps, from left to right."""
    return section(
        "The steps",
        element("ol", *map(_stage, stages), class_="stages"),
        lead="dbsplit run does those up to stream, and validate with --until ready. Times are"
        " estimates between fast and slow on a small machine.",
    )


def _stage(stage: Stage) -> Markup:
    told = stage.predicted
    figures = [
        f"{count(told.rows)} rows" if told.rows is not None else None,
        size(told.size_bytes) if told.size_bytes is not None else None,
        f"{size(told.disk_bytes)} on the targets" if told.disk_bytes is not None else None,
    ]
    return element(
        "li",
        element("h3", stage.name, element("span", "done", class_="done") if stage.done else None),
        element("p", about(told.seconds) if told.seconds else "time not known", class_="time"),
        element("p", " · ".join(filter(None, figures)), class_="muted") if any(figures) else None,
        element("p", stage.what.replace("`", "")),
        *(element("p", f"Not known: {one}.", class_="note") for one in stage.unknown),
    )


def honest_section(outlook: Outlook) -> Markup:
    """What cannot be taken back, and what could not be told."""
    items = [element("li", text) for text in not_reversible(outlook)]
    parts = [element("h3", "Not reversible"), element("ul", *items, class_="prose")]
    if outlook.unknown:
        rest = [element("li", text) for text in outlook.unknown]
        parts += [element("h3", "Not known"), element("ul", *rest, class_="prose")]
    return section("What to know", *parts)


def _table(columns: Sequence[str], body: Sequence[Markup], kind: str) -> Markup:
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    drawn = element("table", element("thead", head), element("tbody", *body), class_=kind)
    return element("div", drawn, class_="scroll")


def _row(row: str | None, cells: Sequence[str | None], kind: str | None = None) -> Markup:
    return element(
        "tr",
        element("th", cells[0], scope="row"),
        *(element("td", cell) for cell in cells[1:]),
        id=row,
        class_=kind,
    )


def figures(outlook: Outlook, crossings: Sequence[Crossing]) -> Iterator[tuple[str, str]]:
    """The numbers that the page opens with."""
    known = sizes(outlook)
    all_ = sum(known.values(), Size())
    tables = {route.source.name for route in outlook.split.routes}
    yield "tables that move", count(len(tables))
    yield "services", count(len(outlook.split.plan.services))
    yield "rows to copy, about", count(all_.rows)
    yield "on the targets' disks, about", size(all_.disk_bytes)
    yield "things that cross", count(len({one.name for one in crossings}))
