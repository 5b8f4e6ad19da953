# ruff: noqa: S608 -- all of the SQL is ours
"""What is written to the source while a stream is measured: five mixes, and steady load."""

from __future__ import annotations

from dataclasses import dataclass

_FILLER = "(SELECT string_agg(md5(n::text || j), '') FROM generate_series(1, 100) j)"
WIDE_COLUMNS = 60
_WIDE = ", ".join(
    f"c{n} {('int', 'text', 'numeric', 'timestamptz')[n % 4]}" for n in range(WIDE_COLUMNS - 2)
)
_WIDE_VALUES = ", ".join(
    ("n", "'text ' || n", "n * 1.01", "'2024-01-01'::timestamptz + n * interval '1 s'")[m % 4]
    for m in range(WIDE_COLUMNS - 2)
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Changes of one kind."""

    name: str
    tables: tuple[str, ...]
    schema: str
    load: str  # of a transaction; i counts from 1
    transactions: int
    changes: int  # of each transaction

    def statement(self, number: int, scale: float) -> str:
        """Writes everything that comes in this round, a transaction at a time, in the server."""
        times = max(1, int(self.transactions * scale))
        return (
            f"DO $do$ BEGIN FOR i IN {(number - 1) * times + 1}..{number * times}"
            f" LOOP {self.load}; COMMIT; END LOOP; END $do$"
        )

    def total(self, scale: float) -> int:
        """How many changes these are."""
        return max(1, int(self.transactions * scale)) * self.changes


def _account(name: str, rows: int) -> str:
    return (
        f"CREATE TABLE {name} (id int PRIMARY KEY, branch int, balance int, filler char(84));"
        f" INSERT INTO {name} SELECT n, n % 10, 0, '' FROM generate_series(1, {rows}) n;"
    )


START = Mix(
    "start",
    ("untouched",),
    "CREATE TABLE untouched (id int PRIMARY KEY);",
    "INSERT INTO untouched VALUES (i)",
    1,
    1,
)
"""One change: what is left is what a process costs that begins, and is no part of the rest."""

MIXES = (
    Mix(
        "insert",
        ("events",),
        "CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz, kind text, amount numeric,"
        " note text); CREATE INDEX ON events (at);",
        "INSERT INTO events SELECT i * 50 + n, now(), 'kind ' || n, n * 1.5, 'a note of ' || i"
        " FROM generate_series(1, 50) n",
        6_000,
        50,
    ),
    Mix(
        "update",
        ("stock",),
        "CREATE TABLE stock (id int PRIMARY KEY, place text, amount int, at timestamptz);"
        " INSERT INTO stock SELECT n, 'place ' || n, 0, now() FROM generate_series(1, 200000) n;",
        "UPDATE stock SET amount = amount + 1, at = now() WHERE id IN"
        " (SELECT (i::bigint * 7919 + n * 3571) % 200000 + 1 FROM generate_series(1, 20) n)",
        10_000,
        20,
    ),
    Mix(
        "small",
        ("accounts", "tellers", "branches", "history"),
        _account("accounts", 100_000)
        + _account("tellers", 100)
        + _account("branches", 10)
        + "CREATE TABLE history (id bigint PRIMARY KEY, account int, delta int, at timestamptz);",
        "UPDATE accounts SET balance = balance + i WHERE id = 1 + (i::bigint * 7919) % 100000;"
        " UPDATE tellers SET balance = balance + i WHERE id = 1 + i % 100;"
        " UPDATE branches SET balance = balance + i WHERE id = 1 + i % 10;"
        " INSERT INTO history VALUES (i, 1 + (i::bigint * 7919) % 100000, i, now())",
        50_000,
        4,
    ),
    Mix(
        "wide",
        ("wide",),
        f"CREATE TABLE wide (id int PRIMARY KEY, large text, {_WIDE});"
        " ALTER TABLE wide ALTER large SET STORAGE EXTERNAL;"
        f" INSERT INTO wide SELECT n, {_FILLER}, {_WIDE_VALUES} FROM generate_series(1, 10000) n;",
        f"INSERT INTO wide SELECT i * 10 + 10000 + n, {_FILLER}, {_WIDE_VALUES}"
        " FROM generate_series(1, 5) n;"
        " UPDATE wide SET c0 = i, c1 = 'changed ' || i WHERE id IN"
        " (SELECT 1 + (i::bigint * 37 + n * 1009) % 10000 FROM generate_series(1, 5) n)",
        8_000,
        10,
    ),
    Mix(
        "delete",
        ("old",),
        "CREATE TABLE old (id int PRIMARY KEY, note text, at timestamptz);"
        " CREATE INDEX ON old (at);"
        " INSERT INTO old SELECT n, 'note ' || n, now() FROM generate_series(1, 800000) n;",
        "DELETE FROM old WHERE id BETWEEN i * 50 - 49 AND i * 50;"
        " IF NOT FOUND THEN RAISE EXCEPTION 'no row is left: fewer rounds, or a smaller --scale';"
        " END IF",
        4_000,
        50,
    ),
    Mix(
        "mixed",
        tuple(f"part_{n}" for n in range(4)),
        "".join(
            f"CREATE TABLE part_{n} (id int PRIMARY KEY, v int, w text);"
            f" INSERT INTO part_{n} SELECT -n, 0, 'w' FROM generate_series(0, 49999) n;"
            for n in range(4)
        ),
        "; ".join(
            f"INSERT INTO part_{n} SELECT i * 5 + n, i, 'new ' || i FROM generate_series(0, 4) n;"
            f" UPDATE part_{n} SET v = v + 1 WHERE id = -(100 + i * 7 % 40000);"
            f" DELETE FROM part_{n} WHERE id = i * 5 - 50"
            for n in range(4)
        ),
        12_000,
        28,
    ),
)

STEADY = Mix(
    "steady",
    ("beat", "account"),
    "CREATE TABLE beat (id int PRIMARY KEY, at timestamptz);" + _account("account", 100_000),
    "",
    0,
    0,
)
FINISH = "finish"
FINISH_SCHEMA = "CREATE TABLE finish (id text PRIMARY KEY);"
