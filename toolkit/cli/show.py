"""How results look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from plans.printable import printable
from toolkit.slot_health import duration

if TYPE_CHECKING:
    from toolkit.status import Status
    from validators.orphans import OrphanResult
    from validators.results import TableResult


def status_text(status: Status) -> str:
    """The status as a table and the gates below it."""
    heads = ("service", "phase", "tables", "copied", "lag bytes", "lag s")
    rows = [
        (
            name,
            one.phase,
            str(one.tables),
            _known(one.copied),
            f"{one.lag_bytes:,}",
            _known(one.lag_s),
        )
        for name, one in status.services.items()
    ]
    live = "live" if status.stream.get("live") else "not running"
    head = f"split {status.split}: {status.phase}; stream {live}"
    lines = [
        *_behind_lines(status),
        *_copy_lines(status.copy),
        *(
            f"slot {one.slot} ({one.where}): {one.wal_status}, retains {one.retained_bytes:,} of "
            f"{one.limit_bytes:,} bytes, {one.forecast} ({one.limit})"
            for one in status.slots
        ),
        *(f"LOCKED  {said}" for said in status.locked),
        *(f"ALERT   {said}" for said in status.stream.get("alerts") or ()),
        *_freshness_lines(status),
    ]
    lines += [
        f"{'open  ' if g.ok else 'CLOSED'}  {g.gate}: {g.observed} (limit {g.limit})"
        + ("" if g.ok else f" → {g.remedy}")
        for g in status.gates
    ]
    return "\n".join([printable(head), _table(heads, rows), *map(printable, lines)])


def _known(value: float | None) -> str:
    return "unknown" if value is None else str(value)


def _behind_lines(status: Status) -> Iterator[str]:
    for name, one in status.services.items():
        if one.away:
            since = "" if one.away_s is None else f" for {duration(one.away_s)}"
            yield f"AWAY    {name}{since}: {one.away}; the source's log is kept for it"
        elif one.spilled_bytes:
            waits = f"{one.spilled_bytes:,} bytes of changes wait for it"
            yield f"SLOW    {name}: {waits} on the stream's disk"


def _freshness_lines(status: Status) -> Iterator[str]:
    """By service, the proof that is oldest; and each table that is not equal."""
    if status.validating:
        yield f"validation: runs now, {status.validating}"
    for service in status.services:
        tables = [one for one in status.tables if one.service == service]
        proven = [(one.equal_age_s, one.table) for one in tables if one.equal_age_s is not None]
        if proven:
            age_s, table = max(proven)
            equal = sum(one.state == "equal" for one in tables)
            yield (
                f"validation: {service}: {equal} of {len(tables)} tables proven equal; the"
                f" oldest proof is of {duration(age_s)} ago ({table})"
            )
    for one in status.tables:
        if one.state not in ("equal", "never"):
            yield f"ALERT   {one.service} {one.table} is {one.state}: {one.differing} rows differ"


def _copy_lines(copy: Mapping[str, Any]) -> Iterator[str]:
    if copy["live"]:
        eta, rate = copy.get("eta_s"), copy.get("bytes_per_s", 0.0)
        left = "" if eta is None else f", about {eta / 60:.0f} min left"
        yield f"copy: runs at {rate / 1e6:.1f} MB/s{left}"
        yield from (f"copy: slower, {reason}" for reason in copy.get("slowed_by", ()))
        yield from (f"copy: take care, {warning}" for warning in copy.get("warnings", ()))
    elif copy.get("paused"):
        yield "copy: paused by an operator (`dbsplit throttle --resume`)"


def validation_text(results: Sequence[TableResult]) -> str:
    """The comparison as a table, and the first differences below it."""
    heads = ("service", "table", "rows", "missing", "extra", "different", "state")
    rows = [
        (
            one.service,
            str(one.table),
            f"{one.rows:,}",
            str(one.missing),
            str(one.extra),
            str(one.different),
            one.state,
        )
        for one in results
    ]
    lines = []
    for position in dict.fromkeys(one.position for one in results if one.position):
        some = sum(one.position == position for one in results)
        lines.append(f"{some} tables were read as of one position on both sides: {position}")
    for one in results:
        if one.reason:
            lines.append(f"{one.service} {one.table}: {one.reason}".lstrip())
        for difference in one.examples[:5]:
            key = ", ".join("NULL" if part is None else part for part in difference.key)
            whose = f"{one.service} {one.table} ({key or 'no key'})".lstrip()
            lines.append(f"{whose} {difference.how}{difference.told('here', 'there')}")
    return "\n".join([_table(heads, rows), *map(printable, lines)])


def orphans_text(results: Sequence[OrphanResult]) -> str:
    """The orphans of each key that is checked, below the comparison; "" without such keys."""
    lines = []
    for one in results:
        keys = "; ".join(", ".join(str(part) for part in key) for key in one.sample[:5])
        said = f"{one.orphans:,} orphans" if one.state == "checked" else f"unverified: {one.reason}"
        of = f"{one.service} {one.foreign_key} → {one.references}"
        said += f", such as {keys}" if keys else ""
        lines.append("\n" + printable(f"{of}: {said}"))
    return "".join(lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*map(printable, row))
    # A name may look like rich's markup, or like a name of an emoji.
    console = Console(width=140, no_color=True, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
