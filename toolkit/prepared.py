"""What the source's control row says of a split, held against the plan and the tables of now."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from cdc.connect import Connection
from plans.catalog import Catalog, Table, TableName
from plans.errors import GateClosed, NotReady, PlanInvalid
from plans.evolution import Numbers
from plans.load import Plan
from toolkit.schema_numbers import read_numbers


class Drifted(PlanInvalid):
    """The source's tables are not what the split was prepared for."""

    @classmethod
    def of(cls, plan: Plan, changed: Iterable[str]) -> Drifted:
        """The error, with the changes in words."""
        return cls(
            f"the source has changed since split {plan.split} was prepared: {'; '.join(changed)}",
            hint=f"nothing wrong was written: `dbsplit plan refresh {plan.path}` carries it over, "
            "and says how; then run the same command again",
        )


class RefreshBegun(NotReady):
    """A refresh was begun, and has not ended."""

    @classmethod
    def of(cls, plan: Plan) -> RefreshBegun:
        """The error, with the command that goes on whoever began it."""
        return cls(
            f"a refresh of split {plan.split} was begun and has not ended",
            hint=f"run `dbsplit plan refresh {plan.path}`: it goes on where it stopped",
        )


class NoOwner(Drifted):
    """The source has tables that came after `prepare`, and the plan wants to know whose."""


def past_of(source: Connection, split: str) -> dict[str, Any]:
    """What refreshes have noted of how the source's tables were before, see `cdc.past`."""
    if source.execute("SELECT to_regclass('dbsplit.split')").fetchone() == (None,):
        return {}
    return _setting(source, split, "past")


def past_of_leader(source: Connection, split: str, service: str) -> dict[str, Any]:
    """The same for a moved service's own tables."""
    return _setting(source, split, "leaders", service)


def numbers_of(source: Connection, split: str) -> dict[TableName, Numbers]:
    """How the source's tables were known when the split was prepared, or refreshed last."""
    noted = _setting(source, split, "numbers")
    return {TableName(*name.split(".", 1)): Numbers.of(one) for name, one in noted.items()}


def passed_of(source: Connection, split: str) -> dict[str, list[str]]:
    """By route of a moved service, where what comes back of it begins, see `refresh_work`."""
    return _setting(source, split, "passed")


def _setting(source: Connection, split: str, *path: str) -> dict[str, Any]:
    row = source.execute(
        "SELECT settings #> %s FROM dbsplit.split WHERE split = %s", [list(path), split]
    ).fetchone()
    return dict(row[0]) if row and row[0] else {}


def without_ignored(catalog: Catalog, plan: Plan, source: Connection) -> Catalog:
    """The catalog as the split sees it: what the plan's `ddl:` lets it ignore is not there.

    That is, columns which were noted as such, and tables that came after `prepare`.
    """
    noted = _noted(plan, source)
    if noted is None:
        return catalog
    ignored = {
        TableName(schema, name): set(columns)
        for schema, name, columns in past_of(source, plan.split).get("ignored", ())
    }
    tables = dict(catalog.tables)
    for name in ignored.keys() & tables.keys():
        kept = tuple(c for c in tables[name].columns if c.name not in ignored[name])
        tables[name] = replace(tables[name], columns=kept)
    if plan.ddl.new_tables == "ignore" and noted.entries is not None:
        for name in _new_tables(plan, catalog, noted.entries):
            del tables[name]
    return replace(catalog, tables=tables)


def require_owned(plan: Plan, catalog: Catalog, source: Connection) -> None:
    """Check that no table has come since `prepare` that is nobody's, if the plan wants it so.

    Raises NoOwner with their names.
    """
    noted = _noted(plan, source)
    if plan.ddl.new_tables != "stop" or noted is None or noted.entries is None:
        return
    new = _new_tables(plan, catalog, noted.entries)
    heirs = {
        name: f"it inherits from {parent}, and inheritance isn't supported: "
        f"{no_inherit(name, parent)}"
        for name in new
        if (parent := heir_of(catalog, name, noted.shapes or {})) is not None
    }
    if heirs:
        raise NoOwner(
            f"the source has changed since split {plan.split} was prepared: "
            f"{'; '.join(f'table {name} is new, and {why}' for name, why in heirs.items())}",
            hint="nothing wrong was written. Do that on the source, or drop the table there, then "
            "run the same command again",
        )
    if new:
        answers = " ".join(f"--owner {name}=SERVICE" for name in new)
        raise NoOwner(
            f"the source has changed since split {plan.split} was prepared: "
            f"{'; '.join(f'table {name} is new and has no owner' for name in new)}",
            hint=f"nothing wrong was written. `dbsplit plan refresh {plan.path} {answers}` gives "
            "it to a service, =drop instead leaves it behind; then run the same command again. "
            "With ddl.new_tables: ignore the stream goes on without it",
        )


def heir_of(catalog: Catalog, name: TableName, followed: Container[str]) -> TableName | None:
    """The followed table that a table inherits from, and not as its partition."""
    table = catalog.tables[name]
    is_heir = table.parent and not table.is_partition and str(table.parent) in followed
    return table.parent if is_heir else None


def no_inherit(name: TableName, parent: TableName) -> str:
    """What makes it a table of its own."""
    heir, base = (one.identifier.as_string(None) for one in (name, parent))
    return f"ALTER TABLE {heir} NO INHERIT {base}"


def _new_tables(plan: Plan, catalog: Catalog, before: Iterable[str]) -> list[TableName]:
    """The tables, and partitions of such, of which neither the plan nor `prepare` knew."""
    known = {found.name for name in (*plan.tables, *before) if (found := catalog.find(name))}
    return [name for name in catalog.tables if catalog.root(name) not in known]


def require_begun(plan: Plan, source: Connection) -> None:
    """Check that there is something of the split on the source; NotReady if not."""
    if _noted(plan, source) is None:
        raise NotReady(
            f"split {plan.split} is not prepared on the source",
            hint=f"run `dbsplit prepare {plan.path}`",
        )


def require_same_plan(plan: Plan, source: Connection) -> bool:
    """Check that what was begun on the source, if anything, was begun with this plan.

    Returns whether something was.  Raises PlanInvalid if the plan has changed since.
    """
    noted = _noted(plan, source)
    if noted is not None and noted.plan_digest != plan.digest:
        raise PlanInvalid(
            f"{plan.path} has changed since split {plan.split} was prepared",
            hint="restore the plan as it was, or let `dbsplit plan refresh` carry it over as far "
            "as it can; else `dbsplit abort` with the old one and prepare with the new one",
        )
    return noted is not None


def is_completed(plan: Plan, source: Connection) -> bool:
    """Whether `complete` has ended the split, or has begun to."""
    noted = _noted(plan, source)
    return noted is not None and noted.retiring is not None


def require_not_completed(plan: Plan, source: Connection) -> None:
    """Check that `complete` has not ended the split; GateClosed if it has."""
    if is_completed(plan, source):
        raise GateClosed(
            f"split {plan.split} is completed: its tables have moved for good",
            hint=f"there is nothing left to do; `dbsplit complete {plan.path} --drop` drops the "
            "retired tables",
        )


def require_same_tables(plan: Plan, catalog: Catalog, source: Connection) -> None:
    """Check that the tables are what the split was prepared for, as far as it is.

    Raises Drifted with all that has changed, GateClosed if `complete` has ended the split.
    """
    require_not_completed(plan, source)
    noted = _noted(plan, source)
    before: dict[str, Any] = (noted.shapes if noted else None) or {}
    now = {name: shape_of(table) for name, table in _named(catalog).items()}
    changed = [
        said
        for name, then in sorted(before.items())
        if (said := _change(then, now.get(name), name))
    ]
    if noted is not None and noted.numbers:
        changed += _others(noted.numbers, catalog, source)
    if changed and noted is not None and noted.prepared_at is None:
        raise Drifted(
            f"the source has changed since split {plan.split} was begun: {'; '.join(changed)}",
            hint=f"nothing was copied yet: undo it on the source, or `dbsplit abort {plan.path}`; "
            "then prepare again",
        )
    if changed:
        raise Drifted.of(plan, changed)


def _others(noted: dict[str, Any], catalog: Catalog, source: Connection) -> Iterator[str]:
    """Columns and partitions that are called as before and are not what they were, in words."""
    now = read_numbers(source, catalog.schemas)
    for name, table in sorted(_named(catalog).items()):
        if name not in noted or name not in now:
            continue
        then, is_ = Numbers.of(noted[name]), now[name]
        for column in (one.name for one in table.columns):
            was, found = then.columns.get(column), is_.columns.get(column)
            if was is not None and found is not None and was.number != found.number:
                yield f"table {name} has another column {column} than before"
        yield from _of_partitions(name, then, is_)


def _of_partitions(name: str, then: Numbers, now: Numbers) -> Iterator[str]:
    """Partitions with rows that are in no log which the stream reads, in words."""
    for leaf in sorted(now.leaves.keys() - then.leaves.keys()):
        if now.leaves[leaf]:
            yield f"table {name} has got partition {leaf}, which had rows before"
    for leaf in sorted(then.places.keys() & now.places.keys()):
        if then.places[leaf] != now.places[leaf]:
            yield f"table {name} has partition {leaf} detached and attached again"


def shape_of(table: Table) -> dict[str, Any]:
    """What of a table the routes and the schemas of the targets rely on, for JSON."""
    return {
        "columns": {c.name: [c.type, c.not_null, c.generated] for c in table.columns},
        "key": list(table.key),
    }


def require_prepared(plan: Plan, catalog: Catalog, source: Connection) -> None:
    """Check that `prepare` was run, with this very plan and for these tables.

    Raises NotReady if it was not, RefreshBegun if a refresh has not ended, PlanInvalid if
    the plan has changed since, and Drifted if tables have.
    """
    noted = _noted(plan, source)
    if noted is None or noted.prepared_at is None:
        raise NotReady(
            f"split {plan.split} is not prepared on the source",
            hint=f"run `dbsplit prepare {plan.path}`",
        )
    if noted.refreshing is not None:
        raise RefreshBegun.of(plan)
    require_same_plan(plan, source)
    require_same_tables(plan, catalog, source)


class _Noted(NamedTuple):
    """The control row: None stands for what is not so, or not yet."""

    plan_digest: str
    prepared_at: datetime | None
    shapes: dict[str, Any] | None  # of the tables, see `shape_of`
    retiring: list[Any] | None  # what `complete` has begun to retire
    entries: dict[str, Any] | None  # of the plan, by table
    refreshing: dict[str, Any] | None  # the refresh that has begun
    numbers: dict[str, Any] | None  # of the tables, see `plans.evolution.Numbers`


def _noted(plan: Plan, source: Connection) -> _Noted | None:
    if source.execute("SELECT to_regclass('dbsplit.split')").fetchone() == (None,):
        return None
    row = source.execute(
        "SELECT plan_digest, prepared_at, settings -> 'shapes', settings -> 'retiring',"
        " settings -> 'entries', settings -> 'refreshing', settings -> 'numbers'"
        " FROM dbsplit.split WHERE split = %s",
        [plan.split],
    ).fetchone()
    return _Noted(*row) if row else None


def _named(catalog: Catalog) -> dict[str, Table]:
    return {str(name): table for name, table in catalog.tables.items()}


def _change(then: dict[str, Any], now: dict[str, Any] | None, name: str) -> str:
    """What has become of a table, in words; "" if nothing has."""
    if now is None:
        return f"table {name} is gone"
    if then == now:
        return ""
    before, after = then["columns"], now["columns"]
    said = [f"lost column {column}" for column in before if column not in after]
    said += [f"has a new column {column}" for column in after if column not in before]
    said += [
        f"column {column} was {_in_words(before[column])} and is {_in_words(after[column])}"
        for column in before
        if column in after and before[column] != after[column]
    ]
    if then["key"] != now["key"]:
        said.append(f"its key was ({', '.join(then['key'])}) and is ({', '.join(now['key'])})")
    return f"table {name} {', '.join(said)}"


def _in_words(column: list[Any]) -> str:
    type_, not_null, generated = column
    return f"{type_}{' NOT NULL' if not_null else ''}{f' from {generated}' if generated else ''}"
