"""A refresh's copies: beside the stream, which goes on for all other tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from cdc.connect import Connection, connect
from cdc.copy_pace import Tally
from cdc.copy_record import latest_horizon, routes_of_several_moments
from cdc.copy_session import equipped
from cdc.copy_sql import CopyTask, without_doubles
from cdc.copying import Copying
from cdc.crash import crash_point
from cdc.crew import Crew
from cdc.lsn import LSN
from cdc.slot import read_slot
from cdc.throttle import Throttle
from plans import names
from plans.catalog import TableName
from plans.errors import GateClosed, StreamBroken
from toolkit import refresh_revisions as revisions
from toolkit.giving_up import give_up, is_over_budget, require_not_given_up
from toolkit.initial import copy_tasks, under_snapshots
from toolkit.opened import Split, open_split
from toolkit.refresh_beside import (
    Manner,
    bring_up,
    clear,
    join,
    keeps_slot,
    made_slot,
    manner_of,
    not_joined,
    note_joined,
    others_following,
)
from toolkit.refresh_work import Work
from toolkit.say import Say
from toolkit.throttling import throttled

JOBS = 2


def copy_anew(path: Path, split: Split, source: Connection, work: Work, say: Say) -> None:
    """Copy tables anew, while the stream goes on for all others."""
    if aside := not_joined(split, work.copied, work.id):
        manner = manner_of(split, source, aside)
        try:
            if manner is Manner.STANDING or not _beside(path, split, source, work, aside, say):
                _standing(split, source, work, aside, say)
        except StreamBroken as error:
            require_not_given_up(split.name, source)  # what is left of its slots goes
            if manner is Manner.STANDING or keeps_slot(split, source):
                raise
            raise StreamBroken(
                f"the log that was kept for tables which are copied anew is lost: {error}",
                hint="run the same command again, which copies them once more; if the server has "
                "removed it, raise its max_slot_wal_keep_size",
            ) from None
    clear(split, source, work.services)


def _beside(
    path: Path,
    split: Split,
    source: Connection,
    work: Work,
    aside: frozenset[str],
    say: Say,
) -> bool:
    """Copy, and bring what was copied to where the stream is; False if there is no room for it."""
    with others_following(split, aside) as others:
        if not made_slot(split, source):
            return False
        say("beside", {"routes": sorted(aside)})
        _copy(split, source, aside, say, others.check)
        revisions.keys(split, work)
        split = open_split(path, refreshing=True)
        bring_up(split, aside, copied_until(split, work), others)
        if revisions.indexes(split, work):
            bring_up(split, aside, LSN(0), others)
        crash_point("refresh.brought_up")
    others.check()
    join(split, aside, work.id)
    say("joined", {"routes": sorted(aside)})
    return True


def _standing(
    split: Split,
    source: Connection,
    work: Work,
    aside: frozenset[str],
    say: Say,
) -> None:
    """Copy while the stream stands, which then brings what was written meanwhile."""
    say("standing", {"routes": sorted(aside)})
    _copy(split, source, aside, say)
    revisions.keys(split, work)
    note_joined(split, aside, work.id)


def _copy(
    split: Split,
    source: Connection,
    wanted: frozenset[str],
    say: Say,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Copy these routes, unless `check` raises meanwhile."""
    tally = Tally(lambda _progress: None, workers=JOBS)
    tasks = [task for task in copy_tasks(split, split.plan.services) if task.route.id in wanted]
    with throttled(
        split,
        "copy",
        tell=lambda now: say("throttle", {"reasons": now.reasons, "warnings": now.warnings}),
        paused=tally.rested,
        details=lambda: asdict(tally.pace()),
    ) as throttle:
        try:
            _copy_all(split, tasks, tally, throttle, check)
        except GateClosed:
            retained = max(
                read_slot(source, slot).retained_bytes
                for slot in (names.slot(split.name), names.refresh_slot(split.name))
            )
            if is_over_budget(split, source, retained):
                raise give_up(split, source, retained) from None
            raise
    for service in split.plan.services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            several = routes_of_several_moments(target)
        for route in split.routes_of([service]):
            if route.id in several & wanted and route.key:
                with equipped(split.name) as worker:
                    worker.target(split.dsn(service)).execute(without_doubles(route))
    say("copied", {"routes": sorted(wanted)})
    crash_point("refresh.copied")


def _copy_all(
    split: Split,
    tasks: Sequence[CopyTask],
    tally: Tally,
    throttle: Throttle,
    check: Callable[[], None],
) -> None:
    def pause(size_bytes: int) -> None:
        check()
        throttle.pause(size_bytes)

    def copy_rest() -> frozenset[TableName]:
        with Copying(
            split.plan.source.dsn, split.name, tasks, workers=JOBS, pause=pause
        ) as copying:
            jobs = copying.jobs(tally)
            tally.begin()
            Crew(jobs).work(JOBS, copying.equip)
        return copying.changed

    under_snapshots(copy_rest)


def copied_until(split: Split, work: Work) -> LSN:
    """Before it, tables may be of several moments."""
    found = LSN(0)
    for service in work.services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            found = max(found, latest_horizon(target))
    return found


def are_of_several_moments(split: Split, work: Work) -> bool:
    """Whether what was copied has chunks of several moments."""
    for service in work.services:
        with connect(split.dsn(service), name="dbsplit refresh") as target:
            if not routes_of_several_moments(target).isdisjoint(work.copied):
                return True
    return False
