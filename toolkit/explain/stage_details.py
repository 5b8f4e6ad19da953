"""What is known of each stage beforehand: its tables and steps, with sizes and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdc.copy_sql import largest_first
from plans import names
from plans.routes import Kind, Route
from toolkit.complete import RETIRED, retired_name
from toolkit.explain.outlook import Outlook
from toolkit.explain.predictions import (
    PREPARE_TABLE_S,
    PROCESS_S,
    Predicted,
    Range,
    Size,
    catch_up_seconds,
    compare_seconds,
    copy_seconds,
    sizes,
    total,
)
from toolkit.identities import unidentified
from toolkit.initial import copy_tasks
from toolkit.report.amounts import many, size
from toolkit.sequences import used_by
from toolkit.sides import source_tables
from toolkit.state import Phase

_COPIED = (Phase.FOLLOWING, Phase.DRAINING, Phase.SETTLED, Phase.MOVED, Phase.COMPLETED)
_MOVED = (Phase.MOVED, Phase.COMPLETED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One line of a stage: a table, a service, a step."""

    what: str
    note: str = ""
    rows: int | None = None
    size_bytes: int | None = None
    disk_bytes: int | None = None
    done: bool = False
    one_of: str = ""  # "tables to compare": one of many of the same, which need only be counted


MOVE_STEPS = {
    "preflight": "waits until the stream is close enough, and looks at the gates",
    "reverse_slot": "makes the way back: a publication and a slot on each target",
    "close_follower": "closes the targets to everyone but the stream",
    "validate": "compares every row again",
    "gates": "decides whether the pause may begin",
    "announce": "tells the switch to prepare",
    "recheck": "compares what has changed meanwhile",
    "fence": "writers wait from here on: triggers refuse writes, table by table",
    "marker": "writes a marker into the source's log",
    "drain": "waits until the targets have passed the marker",
    "verify": "compares every key that was still unproven",
    "sequences": "lets the targets' sequences go on behind the source's",
    "way_back": "sees a change travel back to the source",
    "open": "the right to write has changed hands: opens the targets",
    "switch": "switches the traffic; writers go on",
    "canary": "sees a write of the new side arrive on the old one",
}
"""The steps of a cutover by the names that it reports."""


def details(outlook: Outlook) -> Mapping[str, dict[str, Any]]:
    """For each stage by its name, the fields that tell what it will do."""
    known = sizes(outlook)
    return {
        "prepare": _prepare(outlook),
        "copy": _copy(outlook, known),
        "stream": _stream(outlook, known),
        "validate": _validate(outlook, known),
        "cutover": _cutover(outlook, known),
        "complete": _complete(outlook),
    }


def _prepare(outlook: Outlook) -> dict[str, Any]:
    split, details = outlook.split, []
    for service in split.plan.services:
        tables = {route.target for route in split.routes_of([service])}
        left = outlook.schemas[service].left_out if service in outlook.schemas else ()
        note = f"{_many(len(tables), 'table')}"
        if left:
            note += f"; {_many(len(left), 'object')} left out"
        if revisions := split.plan.services[service].revisions:
            note += f"; then the revisions in {revisions.name}"
        details.append(Detail(what=f"service {service}", note=note))
    details += [
        Detail(what=f"source: {name}", note="logs old rows in full from here on")
        for name in unidentified(split)
    ]
    made = {(route.service, route.target) for route in split.routes}
    return {
        "details": tuple(details),
        "done": outlook.progress.prepared,
        "predicted": Predicted(seconds=PROCESS_S + PREPARE_TABLE_S * len(made)),
        "unknown": (
            "how long the slot waits for the transactions that are in progress then, 60 s at most",
        ),
    }


def _copy(outlook: Outlook, known: Mapping[str, Size]) -> dict[str, Any]:
    copied = {route for seen in outlook.targets.values() for route in seen.copied}
    tasks = sorted(copy_tasks(outlook.split, outlook.split.plan.services), key=largest_first)
    details = []
    for task in tasks:
        route, known_size = task.route, known[task.route.id]
        details.append(
            Detail(
                what=route.id,
                note=_kind_of(route),
                rows=known_size.rows,
                size_bytes=known_size.data_bytes,
                disk_bytes=known_size.disk_bytes,
                done=route.id in copied,
            )
        )
    all_ = total(known.values())
    seconds = copy_seconds(known.values())
    return {
        "details": tuple(details),
        "done": _all_in(outlook, _COPIED),
        "predicted": Predicted(
            rows=all_.rows,
            size_bytes=all_.data_bytes,
            disk_bytes=all_.disk_bytes,
            seconds=seconds,
        ),
        "unknown": (_retained(outlook, seconds),),
    }


def _stream(outlook: Outlook, known: Mapping[str, Size]) -> dict[str, Any]:
    split = outlook.split
    details = [
        Detail(what=f"source: slot {names.slot(split.name)}", note="holds the log back"),
        Detail(what=f"source: publication {names.publication(split.name)}"),
    ]
    details += [
        Detail(
            what=f"service {service}: origin {names.origin(split.name, service)}",
            note=f"applies the changes of {_many(len(split.routes_of([service])), 'route')}",
        )
        for service in split.plan.services
    ]
    seconds = catch_up_seconds(copy_seconds(known.values()), outlook.writes_per_s)
    return {
        "details": tuple(details),
        "done": _all_in(outlook, (Phase.COMPLETED,)),
        "predicted": Predicted(seconds=seconds),
        "unknown": ()
        if seconds
        else ("how long it takes to catch up: the source does not tell how much is written",),
    }


def _validate(outlook: Outlook, known: Mapping[str, Size]) -> dict[str, Any]:
    proven = outlook.progress.validated
    details = [
        Detail(
            what=route.id,
            note=proven.get(route.id, ""),
            rows=known[route.id].rows,
            size_bytes=known[route.id].data_bytes,
            done=proven.get(route.id) == "equal",
            one_of="routes to compare",
        )
        for route in outlook.split.routes
    ]
    all_ = total(known.values())
    return {
        "details": tuple(details),
        "done": all(detail.done for detail in details),
        "predicted": Predicted(
            rows=all_.rows,
            size_bytes=2 * all_.data_bytes,  # both sides are read
            seconds=PROCESS_S + compare_seconds(known.values()),
        ),
    }


def _cutover(outlook: Outlook, known: Mapping[str, Size]) -> dict[str, Any]:
    split, limits = outlook.split, outlook.split.plan.limits
    services = tuple(split.plan.services)
    details = [Detail(what=step, note=note) for step, note in MOVE_STEPS.items()]
    details += [
        Detail(
            what=f"fence {relation}",
            note=f"moves to {' and '.join(sorted(owners))}",
            one_of="relations to fence, in the order of their tables' names",
        )
        for table in source_tables(split, services)
        for owners in [split.owners(table.name)]
        for relation in (table.name, *table.leaves)
    ]
    for sequence, uses in used_by(split.catalog.tables.values()).items():
        owners = frozenset[str]().union(*(split.owners(use.table) for use in uses))
        if owners:
            steps = f", each in steps of {len(owners) + 1}" if len(owners) > 1 else ""
            note = f"goes on in {' and '.join(sorted(owners))}{steps}"
            of = "" if steps else "sequences to set"
            details.append(Detail(what=f"sequence {sequence}", note=note, one_of=of))
    owned = [known[route.id] for route in split.owned(services)]
    return {
        "details": tuple(details),
        "done": _all_in(outlook, _MOVED),
        "predicted": Predicted(
            rows=total(owned).rows, seconds=PROCESS_S * 2 + compare_seconds(owned)
        ),
        "unknown": (
            f"how long writers wait: {limits.write_pause_s_max:g} s at most, else it is given up"
            " and the source takes writes again",
        ),
    }


def _complete(outlook: Outlook) -> dict[str, Any]:
    tables = source_tables(outlook.split, outlook.split.plan.services)
    return {
        "details": tuple(
            Detail(
                what=f"source: {table.name}",
                note=f"becomes {retired_name(table.name).name}",
                one_of=f"tables to rename, to NAME{RETIRED}",
            )
            for table in tables
        ),
        "done": _all_in(outlook, (Phase.COMPLETED,)),
        "predicted": Predicted(seconds=PROCESS_S + PREPARE_TABLE_S * len(tables)),
    }


def _retained(outlook: Outlook, copying: Range) -> str:
    limit = outlook.split.plan.limits.wal_retained_bytes_max
    if outlook.wal_bytes_per_s is None:
        return (
            "how much log the source keeps for the slot: it does not tell how much it writes"
            f" (limits.wal_retained_bytes_max is {size(limit)})"
        )
    kept = outlook.wal_bytes_per_s * copying.high
    return (
        f"how much log the source keeps for the slot meanwhile: {size(kept)} if it goes on"
        f" writing {size(outlook.wal_bytes_per_s)} a second, its average"
        f" (limits.wal_retained_bytes_max is {size(limit)})"
    )


def _kind_of(route: Route) -> str:
    match route.kind:
        case Kind.WHOLE:
            return ""
        case Kind.COLUMNS:
            return _many(len(route.columns), "column")
        case Kind.ROWS:
            return f"rows with {route.where}"
        case Kind.REFERENCE:
            return "read-only copy"
        case Kind.DERIVED:
            return "computed"


def _all_in(outlook: Outlook, phases: tuple[Phase, ...]) -> bool:
    now = outlook.progress.phases
    return bool(now) and all(now.get(s) in phases for s in outlook.split.plan.services)


def _many(number: int, one: str) -> str:
    return many(number, one, f"{one}s")
