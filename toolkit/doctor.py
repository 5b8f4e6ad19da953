"""What `doctor` looks at besides what `prepare` requires of the servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Final, LiteralString

from cdc.connect import Connection, connect
from cdc.slot import require_whole
from plans import names
from plans.errors import NotReady, StreamBroken
from plans.load import Plan
from plans.some import some
from toolkit import state
from toolkit.identities import IDENTIFIED
from toolkit.journal import verify_chain
from toolkit.need import Need
from toolkit.ready import check_servers
from toolkit.state import Phase

SHOWN_MAX: Final = 5
PACKAGES: Final = ("cdc", "plans", "toolkit", "validators")

# Not pg_get_publication_tables(), which waits for DDL.
_UNIDENTIFIED: Final[LiteralString] = f"""
WITH RECURSIVE published AS (
    SELECT r.prrelid AS oid FROM pg_publication_rel AS r
      JOIN pg_publication AS p ON p.oid = r.prpubid WHERE p.pubname = %s
     UNION
    SELECT i.inhrelid FROM published AS b JOIN pg_inherits AS i ON i.inhparent = b.oid
)
SELECT format('%%I.%%I', n.nspname, c.relname)
  FROM published JOIN pg_class AS c USING (oid) JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND NOT {IDENTIFIED} ORDER BY 1
"""  # noqa: S608 -- all of it is ours


def examine(plan: Plan) -> list[Need]:
    """All findings about this installation and the servers; changes nothing.

    A server that cannot be reached is a finding among others.
    """
    needs = [check_installation(), *check_servers(plan)]
    try:
        with connect(plan.source.dsn, name="dbsplit doctor") as source:
            needs += [_names(plan, source), _budget(plan, source)]
            needs += [*_slots(plan, source), *_journal(plan, source)]
    except NotReady:
        pass  # is told already
    return needs


def check_installation() -> Need:
    """Whether another distribution has written to our directories: pip lets it, silently."""
    owners = packages_distributions()
    others = {name: sorted(set(owners.get(name, ())) - {"dbsplit"}) for name in PACKAGES}
    shared = [f"{name}, by {', '.join(who)}" for name, who in others.items() if who]
    return Need(
        "this installation: import names",
        not shared,
        f"also claimed: {'; '.join(shared)}" if shared else "ours alone",
        "install dbsplit into a virtual environment of its own" if shared else "",
    )


def _names(plan: Plan, source: Connection) -> Need:
    """Slots are named on a server, not in a database: another split may have our name."""
    row = source.execute(
        "SELECT database FROM pg_replication_slots WHERE slot_name = %s"
        " AND database IS DISTINCT FROM current_database()",
        [names.slot(plan.split)],
    ).fetchone()
    # Ours has a comment from its first moment on, see toolkit.control.schema.
    schema = source.execute(
        "SELECT coalesce(obj_description(oid, 'pg_namespace'), '') NOT LIKE"
        " 'Control schema of dbsplit%%' FROM pg_namespace WHERE nspname = %s",
        [names.CONTROL_SCHEMA],
    ).fetchone()
    taken = [f"slot {names.slot(plan.split)} belongs to database {row[0]}"] if row else []
    if schema and schema[0]:
        taken.append(f"schema {names.CONTROL_SCHEMA} was not made by this toolkit")
    return Need(
        "source: names",
        not taken,
        "; ".join(taken) or "free, or this split's",
        "choose another name under `split`, or rename what is there" if taken else "",
    )


def _budget(plan: Plan, source: Connection) -> Need:
    """What the source's disk has to hold while the split runs; told, as a plan allows it."""
    row = source.execute(
        "SELECT pg_size_pretty(pg_database_size(current_database())), pg_size_pretty(%s::bigint),"
        " current_setting('max_slot_wal_keep_size')",
        [plan.limits.wal_retained_bytes_max],
    ).fetchone()
    size, limit, kept = row or ("", "", "-1")
    server = "" if kept == "-1" else f", the server's max_slot_wal_keep_size is {kept}"
    free = _free_bytes(source)
    disk = "" if free is None else f"; {free >> 20:,} MB are free on its disk"
    return Need(
        "source: disk and WAL budget",
        ok=True,
        observed=f"{size} are to be copied, slots may keep {limit} of log{server}{disk}",
    )


def _free_bytes(source: Connection) -> int | None:
    """Of the source's disk, if that is this machine's and we may know where it is."""
    row = source.execute(
        "SELECT current_setting('data_directory'), inet_server_addr() IS NULL"
        " OR inet_server_addr() = inet_client_addr()"
        " WHERE pg_has_role('pg_read_all_settings', 'USAGE')"
    ).fetchone()
    if row is None or not row[1]:
        return None
    try:
        disk = os.statvfs(row[0])
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def _slots(plan: Plan, source: Connection) -> Iterator[Need]:
    """Whether the streams can go on from their slots; nothing where none is needed."""
    now = state.phases(source, plan.split) if state.has_control(source) else {}
    if all(phase in (Phase.PLANNED, Phase.COMPLETED) for phase in now.values()):
        return
    yield _slot(source, "source", names.slot(plan.split))
    yield _identities(source, "source", names.publication(plan.split))
    for service, phase in now.items():
        if phase is Phase.MOVED:
            try:
                with connect(plan.services[service].dsn, name="dbsplit doctor") as target:
                    yield _slot(target, f"service {service}", names.back_slot(plan.split, service))
                    publication = names.back_publication(plan.split, service)
                    yield _identities(target, f"service {service}", publication)
            except NotReady:
                continue  # is told already


def _slot(connection: Connection, where: str, slot: str) -> Need:
    need = f"{where}: the stream's slot"
    try:
        require_whole(connection, slot)
    except StreamBroken as broken:
        return Need(need, ok=False, observed=str(broken), remedy=broken.hint)
    return Need(need, ok=True, observed=f"{slot} has all that it needs")


def _identities(connection: Connection, where: str, publication: str) -> Need:
    """Whether applications may change what is published: PostgreSQL wants an identity for that."""
    without = [name for (name,) in connection.execute(_UNIDENTIFIED, [publication]).fetchall()]
    return Need(
        f"{where}: applications may change what is followed",
        not without,
        f"PostgreSQL refuses UPDATE and DELETE of {some(without, SHOWN_MAX)}, which had "
        "another replica identity when `prepare` ran, or came since"
        if without
        else "each table has its replica identity",
        "ALTER TABLE … REPLICA IDENTITY, as it was: DEFAULT, USING INDEX … or FULL; `dbsplit "
        "stream` sees to new partitions"
        if without
        else "",
    )


def _journal(plan: Plan, source: Connection) -> Iterator[Need]:
    """Whether the journal is as it was written; nothing if there is none yet."""
    row = source.execute("SELECT to_regclass('dbsplit.journal') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return
    whole, broken = verify_chain(source, plan.split)
    observed = f"{whole} rows, each with the hash of the one before"
    if broken is not None:
        observed = f"row {broken} is not what was written after {whole} others"
    yield Need(
        "source: the journal is whole",
        broken is None,
        observed,
        "somebody has changed it, so that no certificate from there on is worth anything: "
        "compare dbsplit.journal with a backup",
    )
