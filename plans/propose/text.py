"""A draft as a plan file, whose comments carry the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from plans.findings import Finding
from plans.names import slug
from plans.plan_schema import SCHEMA_FILE
from plans.printable import printable
from plans.propose.draft import Draft, TableDraft
from plans.propose.tally import Amount, rate
from plans.propose.yaml_text import WIDTH, block, comment, flow, scalar
from plans.usage.model import Origin

# The header is read by people; --json has all.
SHOWN_MAX: Final = 12


def dsn_variable(service: str) -> str:
    """The environment variable that a proposed plan takes a service's DSN from."""
    return f"DBSPLIT_{slug(service).upper()}_DSN"


def plan_text(draft: Draft, blockers: Sequence[Finding] = ()) -> str:
    """The whole file.  The findings stand at its end, so that places in it stay right."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        "#",
        *_header(draft),
        "",
        f"split: {scalar(draft.split)}",
        "",
        "source:",
        "  dsn: ${DBSPLIT_SOURCE_DSN}",
        *block("schemas", list(draft.evidence.catalog.schemas), 2),
        "",
        "services:",
        *_services(draft),
        "",
        *_tables(draft),
        *_foreign_keys(draft),
        *_blockers(blockers, below_keys=bool(draft.cost.keys)),
    ]
    return "\n".join(lines) + "\n"


def _header(draft: Draft) -> Iterator[str]:
    yield "# Proposed by `dbsplit plan propose`.  Read it like code before anything is run:"
    yield "# the comments say how sure each owner is (0 to 1) and why."
    yield "#"
    yield "# Evidence"
    catalog = draft.evidence.catalog
    yield from _item(
        f"database {catalog.database}: {_count(len(draft.tables), 'table')},"
        f" {_count(len(catalog.foreign_keys), 'foreign key')}"
    )
    for origin in draft.evidence.usage.origins:
        yield from _item(_origin(origin))
    if draft.evidence.told:
        yield from _item(f"owners file: {_count(len(draft.evidence.told), 'table')}")
    for note in draft.notes:
        yield from _item(note)
    if draft.roles.all:
        yield "# Roles"
        for role in draft.roles.all:
            yield from _item(f"{role.name} → {role.service or 'nobody'}: {role.why}")
    yield from _cost(draft)
    yield from _listed("To decide", [f"{about}: {what}" for about, what in draft.decide])
    yield from _listed(
        "The owners file against the evidence",
        [f"{table}: {what}" for table, what in draft.contradictions],
    )


def _origin(origin: Origin) -> str:
    said = f"{origin.name}: {_count(origin.statements, 'statement')}"
    if origin.since and origin.until and origin.days is not None:
        said += f", {origin.calls:,.0f} calls from {_minute(origin.since)} to"
        said += f" {_minute(origin.until)} ({_duration(origin.days)})"
    return "; ".join([said, *origin.notes])


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _duration(days: float) -> str:
    if days >= 1:
        return f"{days:.0f} days" if round(days) != 1 else "1 day"
    seconds = days * 86_400
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _cost(draft: Draft) -> Iterator[str]:
    yield "# What the boundary costs"
    keys = len(draft.cost.keys)
    yield from _item(f"foreign keys that are cut: {keys}" + (", see below" if keys else ""))
    statements = draft.cost.statements
    if draft.cost.judged:
        per_day = sum(one.per_day for one in statements)
        calls = sum(one.calls for one in statements)
        how_often = f" ({rate(Amount(calls, per_day), 'calls')})" if calls else ""
        yield from _item(f"statements that cannot run as they are: {len(statements)}{how_often}")
    for one in statements[:SHOWN_MAX]:
        often = f", {rate(Amount(one.calls, one.per_day), 'calls')}" if one.calls else ""
        yield from _item(f"{one.who}{often}: {_short(one.text)}", 5)
    yield from _more(len(statements))
    if draft.groups:
        yield "# Written in one transaction"
        for group in draft.groups[:SHOWN_MAX]:
            yield from _item(", ".join(group))
        yield from _more(len(draft.groups))


def _short(text: str) -> str:
    room = WIDTH
    return text if len(text) <= room else text[: room - 1] + "…"


def _listed(title: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield f"# {title}"
    for item in items[:SHOWN_MAX]:
        yield from _item(item)
    yield from _more(len(items))


def _more(count: int) -> Iterator[str]:
    if count > SHOWN_MAX:
        yield f"#   … and {count - SHOWN_MAX} more"


def _item(text: str, indent: int = 3) -> Iterator[str]:
    for number, line in enumerate(comment(text, 0)):
        pad = " " * (indent if number == 0 else indent + 2)
        yield "#" + pad + line[1:].lstrip()


def _services(draft: Draft) -> Iterator[str]:
    for service in draft.evidence.services:
        said = [f'dsn: "${{{dsn_variable(service)}}}"']
        if roles := draft.roles_of(service):
            said.append(f"roles: {flow(list(roles))}")
        yield f"  {service}: {{{', '.join(said)}}}"


def _tables(draft: Draft) -> Iterator[str]:
    if not draft.tables:
        return
    yield "tables:"
    before: tuple[str, ...] | None = None
    for table in draft.tables:
        group = table.shape.services if len(table.shape.services) < 2 else ("several",)
        if group != before:
            title = "Of several services" if group == ("several",) else "Left behind"
            title = f"{group[0]}'s" if group and group[0] in draft.evidence.services else title
            yield from [""] * (before is not None)
            yield f"  # {title} ".ljust(WIDTH - 8, "-")
            before = group
        yield from _table(table)
    yield ""


def _table(table: TableDraft) -> Iterator[str]:
    what = f", decide ({'; '.join(table.decide)})" if table.decide else ""
    why = f": {'; '.join(table.reasons)}" if table.reasons else ""
    yield from comment(f"{table.confidence:.2f}{what}{why}", 2, hanging=2)
    if table.owned.against:
        yield from comment(f"against it: {table.owned.against}", 2, hanging=2)
    entry = dict(table.shape.entry)
    yield from block(table.written, entry["owner"] if set(entry) == {"owner"} else entry, 2)
    for candidate in table.shape.candidates:
        yield f"  #   {printable(candidate)}"


def _foreign_keys(draft: Draft) -> Iterator[str]:
    if not draft.cost.keys:
        return
    yield "# What the split cuts.  Keys between tables of one service stay as they are."
    yield "foreign_keys:"
    for key in draft.cost.keys:
        value = {"replace_with": key.replace_with, "reason": key.reason}
        yield from block(key.written, value, 2)


def _blockers(blockers: Sequence[Finding], *, below_keys: bool) -> Iterator[str]:
    if not blockers:
        return
    yield from [""] * below_keys
    yield "# `dbsplit plan check` refuses this plan:"
    for one in blockers:
        said = f"{one.object}: {one.message} [{one.code}]"
        yield from _item(f"{said} -> {one.remedy}" if one.remedy else said)
