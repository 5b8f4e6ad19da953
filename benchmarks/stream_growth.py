# ruff: noqa: S608 -- all of the SQL is ours
"""How the stream grows with changes, columns, tables and targets, beside native replication.

    python benchmarks/stream_growth.py --json growth.json

Each figure is one backlog that is drained as in `benchmarks.stream`: nobody follows while
it is written, and a start that drains a single change is taken off.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.contest import machine
from benchmarks.stream import NATIVE, OURS, Drained, contest, cost_of_each
from benchmarks.stream_mixes import MIXES, START, Mix

ROWS_OF_A_TRANSACTION = 50
AMOUNTS = {
    "changes": (100_000, 200_000, 400_000, 800_000),
    "columns": (4, 16, 64, 256),
    "tables": (1, 10, 100, 400),
    "targets": (1, 2, 4),
}
CHANGES = 100_000
VALUES = 1_600_000  # of all columns together
WHO = (OURS, NATIVE)


def of_changes(changes: int) -> Mix:
    """Inserts into one table."""
    return replace(_INSERTS, transactions=changes // ROWS_OF_A_TRANSACTION)


_INSERTS = next(mix for mix in MIXES if mix.name == "insert")


def of_columns(columns: int) -> Mix:
    """Inserts into a table of so many columns, as many values for each number of them."""
    name = f"columns_{columns}"
    named = ", ".join(f"c{n} {('int', 'text')[n % 2]}" for n in range(columns - 1))
    values = ", ".join(("n", "'text ' || n")[n % 2] for n in range(columns - 1))
    return Mix(
        name,
        (name,),
        f"CREATE TABLE {name} (id int PRIMARY KEY, {named});",
        f"INSERT INTO {name} SELECT i * {ROWS_OF_A_TRANSACTION} + n, {values}"
        f" FROM generate_series(1, {ROWS_OF_A_TRANSACTION}) n",
        VALUES // columns // ROWS_OF_A_TRANSACTION,
        ROWS_OF_A_TRANSACTION,
    )


def of_tables(tables: int) -> Mix:
    """Inserts and updates in so many tables, ten of them in each transaction."""
    name = f"tables_{tables}"
    names = tuple(f"{name}_{n}" for n in range(tables))
    changes = f"""FOR n IN 0..9 LOOP
        EXECUTE format('INSERT INTO %I SELECT $1 * 10 + $2, n FROM generate_series(1, 1) n',
                       '{name}_' || (i * 10 + n) % {tables}) USING i, n;
        EXECUTE format('UPDATE %I SET v = v + 1 WHERE id = -$1 %% 100',
                       '{name}_' || (i * 10 + n) % {tables}) USING i;
    END LOOP"""
    return Mix(
        name,
        names,
        "".join(
            f"CREATE TABLE {one} (id int PRIMARY KEY, v int);"
            f" INSERT INTO {one} SELECT -n, 0 FROM generate_series(0, 99) n;"
            for one in names
        ),
        changes,
        CHANGES // 20,
        20,
    )


def measured(rounds: int, scale: float, only: Sequence[str]) -> Iterator[tuple[str, int, Drained]]:
    """What is measured, how much of it, and what came of it; the starts are "start"."""
    kinds = {"changes": of_changes, "columns": of_columns, "tables": of_tables}
    for what, mix_of in kinds.items():
        for amount in AMOUNTS[what] if what in only else ():
            # One at a time: of what others have written there is nothing in the log.
            yield from _of(what, amount, mix_of(amount), 1, rounds, scale)
    for services in AMOUNTS["targets"] if "targets" in only else ():
        yield from _of("targets", services, of_changes(CHANGES), services, rounds, scale)


def _of(
    what: str, amount: int, mix: Mix, services: int, rounds: int, scale: float
) -> Iterator[tuple[str, int, Drained]]:
    for one in contest([START, mix], WHO, rounds=rounds, scale=scale, services=services):
        if isinstance(one, Drained):
            print(what, amount, one, file=sys.stderr)
            yield what, amount, one


def table(results: Sequence[tuple[str, int, Drained]]) -> str:
    """The results in Markdown, as they stand in docs/benchmarks.md."""
    lines = [
        "| what | amount | changes | dbsplit, changes/s | CPU µs a change | peak MB"
        " | subscription, changes/s | CPU µs a change |",
        "| --- " * 8 + "|",
    ]
    for what, amount in dict.fromkeys((what, amount) for what, amount, _ in results):
        mine = [one for w, a, one in results if (w, a) == (what, amount)]
        cells = [what, f"{amount:,}"]
        for who in WHO:
            theirs = [o for o in mine if o.contestant == who.name and o.mix != START.name]
            best = min(theirs, key=lambda one: one.cost.all)
            cells += [f"{best.changes:,}"] if who is OURS else []
            cells += [f"{best.rate:,.0f}", f"{cost_of_each(best, mine).all:.1f}"]
            cells += [f"{best.peak_mb:.0f}"] if who is OURS else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--scale", type=float, default=1.0, help="of each backlog")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--only", default=",".join(AMOUNTS), help="of these, with commas")
    options.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    given = options.parse_args()
    results = list(measured(given.rounds, given.scale, given.only.split(",")))
    print(table(results))
    if given.json:
        told = [{"what": what, "amount": amount, **asdict(one)} for what, amount, one in results]
        result = {"machine": machine(), "scale": given.scale, "results": told}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
