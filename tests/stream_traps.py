# ruff: noqa: S608 -- all of the SQL is the tests' own
"""The traps of the change stream: tables, and what is done to them while it flows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML


@dataclass(frozen=True)
class Trap:
    """Some tables, their entries in the plan, and transactions."""

    name: str
    schema: str
    plan: str  # lines of `tables:`
    rows: str = ""  # before the split is prepared
    copied: tuple[str, ...] = ()  # transactions between the slot and the copy
    changes: tuple[str, ...] = ()  # transactions that the stream alone brings
    derived: str = ""  # tables of the hub
    expected: Mapping[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    @property
    def tables(self) -> frozenset[str]:
        """The tables of the plan, without their schema."""
        names = YAML(typ="safe").load(self.plan)
        return frozenset(str(name).removeprefix("odd.") for name in names)


def big(seed: object, size: int = 3_000) -> str:
    """An expression for a text that is stored out of line (with STORAGE EXTERNAL)."""
    return f"repeat(md5('{seed}'), {size // 32})"


TOAST = (
    Trap(
        "large values that an update leaves alone",
        """CREATE TABLE toast_kept (id int PRIMARY KEY, n int, body text, data bytea);
           ALTER TABLE toast_kept ALTER body SET STORAGE EXTERNAL,
               ALTER data SET STORAGE EXTERNAL""",
        "toast_kept: a\n",
        rows=f"INSERT INTO toast_kept SELECT n, n, {big('k')}, decode({big('d')}, 'hex')"
        " FROM generate_series(1, 20) n",
        copied=("UPDATE toast_kept SET n = n + 1 WHERE id < 10",),
        changes=(
            "UPDATE toast_kept SET n = n + 100 WHERE id <= 5",
            "UPDATE toast_kept SET n = n + 100 WHERE id <= 5",
            f"UPDATE toast_kept SET body = {big('new')} WHERE id = 1",
            "UPDATE toast_kept SET n = -1 WHERE id = 1",
            "UPDATE toast_kept SET body = NULL WHERE id = 2",
            "UPDATE toast_kept SET n = -2 WHERE id = 2",
            f"INSERT INTO toast_kept VALUES (30, 1, {big('i')}, NULL)",
            "UPDATE toast_kept SET n = 2 WHERE id = 30",
        ),
    ),
    Trap(
        "a large value left alone after delete and insert",
        """CREATE TABLE toast_again (id int PRIMARY KEY, n int, body text);
           ALTER TABLE toast_again ALTER body SET STORAGE EXTERNAL""",
        "toast_again: a\n",
        rows=f"INSERT INTO toast_again SELECT n, n, {big('old')} FROM generate_series(1, 4) n",
        changes=(
            "DELETE FROM toast_again WHERE id = 1",
            f"INSERT INTO toast_again VALUES (1, 10, {big('second')})",
            "UPDATE toast_again SET n = 11 WHERE id = 1",
            f"BEGIN; DELETE FROM toast_again WHERE id = 2; INSERT INTO toast_again VALUES"
            f" (2, 20, {big('third')}); UPDATE toast_again SET n = 21 WHERE id = 2; COMMIT",
            "UPDATE toast_again SET n = 31 WHERE id = 3",
            "DELETE FROM toast_again WHERE id = 3",
        ),
    ),
    Trap(
        "a large value left alone while the key changes",
        """CREATE TABLE toast_moved (id int PRIMARY KEY, n int, body text);
           ALTER TABLE toast_moved ALTER body SET STORAGE EXTERNAL""",
        "toast_moved: a\n",
        rows="INSERT INTO toast_moved SELECT n, n, repeat(md5(n::text), 100)"
        " FROM generate_series(1, 12) n",
        changes=(
            "UPDATE toast_moved SET id = 101, n = 0 WHERE id = 1",
            # Into a key that another row has just left: its large value is not ours.
            "BEGIN; UPDATE toast_moved SET id = 103 WHERE id = 3;"
            " UPDATE toast_moved SET id = 3 WHERE id = 2; COMMIT",
            "DELETE FROM toast_moved WHERE id = 5",
            "UPDATE toast_moved SET id = 5 WHERE id = 4",
            # A swap, by a third key.
            "BEGIN; UPDATE toast_moved SET id = -1 WHERE id = 6;"
            " UPDATE toast_moved SET id = 6 WHERE id = 7;"
            " UPDATE toast_moved SET id = 7 WHERE id = -1; COMMIT",
            # There and back.
            "UPDATE toast_moved SET id = 108 WHERE id = 8",
            "UPDATE toast_moved SET id = 8, n = 88 WHERE id = 108",
            "UPDATE toast_moved SET id = id + 1000 WHERE id > 10",
        ),
    ),
    Trap(
        "a large key",
        """CREATE TABLE toast_key (code text PRIMARY KEY, n int, filler text);
           ALTER TABLE toast_key ALTER code SET STORAGE EXTERNAL,
               ALTER filler SET STORAGE EXTERNAL""",
        "toast_key: a\n",
        rows=f"INSERT INTO toast_key SELECT {big('c', 2400)} || n, n, {big('f')}"
        " FROM generate_series(1, 5) n",
        changes=(
            "UPDATE toast_key SET n = n + 10",
            "UPDATE toast_key SET code = code || 'x', n = 0 WHERE n = 11",
            "DELETE FROM toast_key WHERE n = 12",
        ),
    ),
    Trap(
        "a row enters a predicate by an update that leaves its large value alone",
        """CREATE TABLE toast_rows (id int PRIMARY KEY, channel text, n int, body text);
           ALTER TABLE toast_rows ALTER body SET STORAGE EXTERNAL""",
        """toast_rows: {split_rows: {a: "channel = 'web'", b: "channel <> 'web'"}}\n""",
        rows=f"INSERT INTO toast_rows SELECT n, CASE n % 2 WHEN 0 THEN 'web' ELSE 'post' END, n,"
        f" {big('r')} || n FROM generate_series(1, 10) n",
        changes=(
            "UPDATE toast_rows SET channel = 'web' WHERE id = 1",
            "UPDATE toast_rows SET channel = 'post' WHERE id = 2",
            "UPDATE toast_rows SET channel = 'web' WHERE id = 3",
            "UPDATE toast_rows SET channel = 'post' WHERE id = 3",
            "UPDATE toast_rows SET channel = 'web', id = 105 WHERE id = 5",
            # What enters now has, when it is read back, another value already.
            "UPDATE toast_rows SET channel = 'web' WHERE id = 7",
            f"UPDATE toast_rows SET body = {big('later')} WHERE id = 7",
            "UPDATE toast_rows SET channel = 'web' WHERE id = 9",
            "DELETE FROM toast_rows WHERE id = 9",
            "UPDATE toast_rows SET n = n + 1",
        ),
    ),
    Trap(
        "an expression reads a large value that the update leaves alone",
        """CREATE TABLE toast_read (id int PRIMARY KEY, n int, body text, kind text);
           ALTER TABLE toast_read ALTER body SET STORAGE EXTERNAL,
               ALTER kind SET STORAGE EXTERNAL""",
        """toast_read:
  owner: a
  derive:
    - into: hub.toast_digest
      key: {id: id}
      columns: {digest: "md5(body)", twice: "n * 2", body: body}
      where: "kind IS NOT NULL AND left(kind, 1) <> '0'"
""",
        derived="CREATE TABLE public.toast_digest (id int PRIMARY KEY, digest text, twice int,"
        " body text);",
        rows="INSERT INTO toast_read SELECT n, n, repeat(md5(n::text), 100),"
        " repeat(md5('kind' || n), 100) FROM generate_series(1, 10) n",
        changes=(
            "UPDATE toast_read SET n = n + 1",
            f"UPDATE toast_read SET body = {big('x')} WHERE id = 2",
            "UPDATE toast_read SET n = 0 WHERE id = 2",
            "UPDATE toast_read SET kind = NULL WHERE id = 3",
            "UPDATE toast_read SET kind = '0' WHERE id = 4",
            "UPDATE toast_read SET n = 7 WHERE id IN (3, 4)",
            "UPDATE toast_read SET kind = 'again' WHERE id = 3",
        ),
    ),
    Trap(
        "unique values change hands between rows with large values",
        """CREATE TABLE toast_unique (id int PRIMARY KEY, code text UNIQUE, body text);
           ALTER TABLE toast_unique ALTER body SET STORAGE EXTERNAL""",
        "toast_unique: a\n",
        rows=f"INSERT INTO toast_unique SELECT n, 'c' || n, {big('u')} || n"
        " FROM generate_series(1, 6) n",
        changes=(
            "BEGIN; UPDATE toast_unique SET code = 'tmp' WHERE id = 1;"
            " UPDATE toast_unique SET code = 'c1' WHERE id = 2;"
            " UPDATE toast_unique SET code = 'c2' WHERE id = 1; COMMIT",
            "BEGIN; UPDATE toast_unique SET code = 'tmp' WHERE id = 3;"
            f" UPDATE toast_unique SET code = 'c3', body = {big('v')} WHERE id = 4;"
            " UPDATE toast_unique SET code = 'c4' WHERE id = 3; COMMIT",
        ),
    ),
    Trap(
        "parts of a row with large values",
        """CREATE TABLE toast_parts (id int PRIMARY KEY, name text, picture bytea, notes text);
           ALTER TABLE toast_parts ALTER picture SET STORAGE EXTERNAL,
               ALTER notes SET STORAGE EXTERNAL""",
        "toast_parts: {split_columns: {a: [id, name, picture], b: [id, notes]}}\n",
        rows=f"INSERT INTO toast_parts SELECT n, 'n', decode({big('p')}, 'hex'), {big('n')}"
        " FROM generate_series(1, 5) n",
        changes=(
            "UPDATE toast_parts SET name = 'other' WHERE id = 1",
            "UPDATE toast_parts SET id = 102 WHERE id = 2",
            f"UPDATE toast_parts SET notes = {big('m')} WHERE id = 3",
            "DELETE FROM toast_parts WHERE id = 4",
        ),
    ),
)

KEYS = (
    Trap(
        "keys move along a chain",
        "CREATE TABLE key_chain (id int PRIMARY KEY, name text)",
        "key_chain: a\n",
        rows="INSERT INTO key_chain SELECT n, 'row ' || n FROM generate_series(1, 6) n",
        copied=("UPDATE key_chain SET id = 60 WHERE id = 6",),
        changes=(
            "DELETE FROM key_chain WHERE id = 4",
            "UPDATE key_chain SET id = 4 WHERE id = 3",
            "UPDATE key_chain SET id = 3 WHERE id = 2",
            "UPDATE key_chain SET id = 2, name = 'was 1' WHERE id = 1",
            "INSERT INTO key_chain VALUES (1, 'new')",
            "UPDATE key_chain SET id = 7 WHERE id = 5",
            "UPDATE key_chain SET id = 8 WHERE id = 7",
            "UPDATE key_chain SET id = 5 WHERE id = 8",
        ),
    ),
    Trap(
        "keys are swapped by a third one",
        "CREATE TABLE key_swap (a int, b text, v int, PRIMARY KEY (a, b))",
        "key_swap: a\n",
        rows="INSERT INTO key_swap SELECT n, 'k', n FROM generate_series(1, 4) n",
        changes=(
            "BEGIN; UPDATE key_swap SET a = -1 WHERE a = 1; UPDATE key_swap SET a = 1 WHERE a = 2;"
            " UPDATE key_swap SET a = 2 WHERE a = -1; COMMIT",
            "UPDATE key_swap SET b = 'l' WHERE a > 2",
        ),
    ),
    Trap(
        "a deferrable key is double within a transaction",
        "CREATE TABLE key_deferred (id int PRIMARY KEY DEFERRABLE, v text)",
        "key_deferred: {owner: a, reference_in: [b]}\n",
        rows="INSERT INTO key_deferred SELECT n, 'row ' || n FROM generate_series(1, 50) n",
        copied=("UPDATE key_deferred SET id = 51 - id",),
        changes=(
            "UPDATE key_deferred SET id = id + 1",
            "UPDATE key_deferred SET id = 5 - id WHERE id < 5",
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE key_deferred SET id = 20 WHERE id = 21;"
            " UPDATE key_deferred SET id = 21, v = 'swapped' WHERE v = 'row 31';"
            " DELETE FROM key_deferred WHERE v = 'row 30';"
            " INSERT INTO key_deferred VALUES (20, 'third'), (99, 'x');"
            " DELETE FROM key_deferred WHERE id = 20 AND v <> 'third'; COMMIT",
            "UPDATE key_deferred SET v = v || '!' WHERE id = 99",
            "DELETE FROM key_deferred WHERE id = 10",
        ),
    ),
    Trap(
        "unique values are exchanged under a deferrable constraint",
        "CREATE TABLE unique_deferred (id int PRIMARY KEY, place int UNIQUE DEFERRABLE)",
        "unique_deferred: a\n",
        rows="INSERT INTO unique_deferred SELECT n, n FROM generate_series(1, 30) n",
        changes=(
            "UPDATE unique_deferred SET place = 31 - place",
            "UPDATE unique_deferred SET place = place + 1",
        ),
    ),
    Trap(
        "unique values are exchanged by a third one",
        "CREATE TABLE unique_now (id int PRIMARY KEY, place int UNIQUE, email text,"
        " active bool DEFAULT true);"
        " CREATE UNIQUE INDEX ON unique_now (lower(email)) WHERE active",
        "unique_now: {owner: a, reference_in: [b]}\n",
        rows="INSERT INTO unique_now SELECT n, n, 'm' || n FROM generate_series(1, 9) n",
        changes=(
            "BEGIN; UPDATE unique_now SET place = -1 WHERE id = 1;"
            " UPDATE unique_now SET place = 1 WHERE id = 2;"
            " UPDATE unique_now SET place = 2 WHERE id = 1; COMMIT",
            "BEGIN; UPDATE unique_now SET place = -1 WHERE id = 3;"
            " UPDATE unique_now SET place = 3 WHERE id = 4;"
            " UPDATE unique_now SET place = 4 WHERE id = 5;"
            " UPDATE unique_now SET place = 5 WHERE id = 3; COMMIT",
            "BEGIN; UPDATE unique_now SET active = false WHERE id = 6;"
            " UPDATE unique_now SET email = 'M6' WHERE id = 7;"
            " INSERT INTO unique_now VALUES (70, 70, 'm7'); COMMIT",
            "BEGIN; DELETE FROM unique_now WHERE id = 8;"
            " INSERT INTO unique_now VALUES (80, 8, 'm8'); COMMIT",
        ),
    ),
    Trap(
        "exclusion constraints let ranges move",
        "CREATE TABLE ranges (id int PRIMARY KEY, during int4range,"
        " EXCLUDE USING gist (during WITH &&))",
        "ranges: a\n",
        rows="INSERT INTO ranges SELECT n, int4range(n * 10, n * 10 + 10)"
        " FROM generate_series(1, 5) n",
        changes=(
            "BEGIN; UPDATE ranges SET during = 'empty' WHERE id = 1;"
            " UPDATE ranges SET during = '[10,20)' WHERE id = 2;"
            " UPDATE ranges SET during = '[20,30)' WHERE id = 1; COMMIT",
        ),
    ),
    Trap(
        "keys that are equal but written otherwise",
        "CREATE TABLE key_numeric (id numeric PRIMARY KEY, v text, body text);"
        " ALTER TABLE key_numeric ALTER body SET STORAGE EXTERNAL",
        "key_numeric: a\n",
        rows=f"INSERT INTO key_numeric SELECT n, 'row ' || n, {big('q')} || n"
        " FROM generate_series(1, 5) n",
        changes=(
            "UPDATE key_numeric SET id = 1.00 WHERE id = 1",
            "UPDATE key_numeric SET id = 2.0, v = 'two' WHERE id = 2",
            "BEGIN; DELETE FROM key_numeric WHERE id = 3;"
            " INSERT INTO key_numeric VALUES (3.000, 'three', NULL); COMMIT",
        ),
    ),
)

IDENTITIES = (
    Trap(
        "replica identity FULL",
        "CREATE TABLE identity_full (id int PRIMARY KEY, v text, body text);"
        " ALTER TABLE identity_full ALTER body SET STORAGE EXTERNAL;"
        " ALTER TABLE identity_full REPLICA IDENTITY FULL",
        "identity_full: a\n",
        rows=f"INSERT INTO identity_full SELECT n, 'v', {big('b')} FROM generate_series(1, 5) n",
        changes=(
            "UPDATE identity_full SET v = NULL WHERE id = 1",
            "UPDATE identity_full SET id = 12, v = 'w' WHERE id = 2",
            "DELETE FROM identity_full WHERE id = 3",
        ),
    ),
    Trap(
        "replica identity USING INDEX",
        "CREATE TABLE identity_index (id int PRIMARY KEY, code text NOT NULL, v int);"
        " CREATE UNIQUE INDEX identity_code ON identity_index (code);"
        " ALTER TABLE identity_index REPLICA IDENTITY USING INDEX identity_code",
        "identity_index: {owner: a, reference_in: [b]}\n",
        rows="INSERT INTO identity_index SELECT n, 'c' || n, n FROM generate_series(1, 6) n",
        changes=(
            "UPDATE identity_index SET v = 0 WHERE id = 1",
            "UPDATE identity_index SET id = 12 WHERE id = 2",
            "UPDATE identity_index SET code = 'C3' WHERE id = 3",
            "DELETE FROM identity_index WHERE id = 4",
            "BEGIN; UPDATE identity_index SET code = 'tmp' WHERE id = 5;"
            " UPDATE identity_index SET code = 'c5' WHERE id = 6;"
            " UPDATE identity_index SET code = 'c6' WHERE id = 5; COMMIT",
        ),
    ),
    Trap(
        "replica identity NOTHING",
        "CREATE TABLE identity_nothing (id int PRIMARY KEY, v text);"
        " ALTER TABLE identity_nothing REPLICA IDENTITY NOTHING",
        "identity_nothing: a\n",
        rows="INSERT INTO identity_nothing SELECT n, 'v' FROM generate_series(1, 5) n",
        changes=(
            "UPDATE identity_nothing SET v = 'w' WHERE id = 1",
            "UPDATE identity_nothing SET id = 12 WHERE id = 2",
            "DELETE FROM identity_nothing WHERE id = 3",
        ),
    ),
    Trap(
        "no key, and rows that are equal",
        "CREATE TABLE keyless (a int, b numeric, c text, f float8)",
        "keyless: {owner: a, reference_in: [b]}\n",
        rows="INSERT INTO keyless VALUES (1, 1.0, 'x', 0), (1, 1.0, 'x', 0), (1, 1.0, 'x', 0),"
        " (2, NULL, '', -0.0), (2, NULL, '', -0.0), (3, 'NaN', NULL, 'NaN'),"
        " (4, 1.0, '4', 0), (4, 1.00, '4', 0), (5, 5, '5', 5), (5, 5, '5', 5), (5, 5, '5', 5)",
        copied=("INSERT INTO keyless VALUES (6, 6, 'copied', 6), (6, 6, 'copied', 6)",),
        changes=(
            "UPDATE keyless SET c = 'y' WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 1)",
            "DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 5)",
            "UPDATE keyless SET f = 0 WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 2)",
            "UPDATE keyless SET a = 33 WHERE a = 3",
            "DELETE FROM keyless WHERE a = 4 AND scale(b) = 2",
            "INSERT INTO keyless SELECT * FROM keyless WHERE a = 5",
            "BEGIN; INSERT INTO keyless VALUES (7, 7, '7', 7); DELETE FROM keyless WHERE a = 7;"
            " INSERT INTO keyless VALUES (7, 7, '7', 7), (7, 7, '7', 7); COMMIT",
            "UPDATE keyless SET a = a WHERE a = 6",
        ),
    ),
    Trap(
        "no key, split by a predicate, with large values",
        "CREATE TABLE keyless_rows (kind text, body text);"
        " ALTER TABLE keyless_rows ALTER body SET STORAGE EXTERNAL",
        """keyless_rows: {split_rows: {a: "kind = 'a'", b: "kind IS DISTINCT FROM 'a'"}}\n""",
        rows=f"INSERT INTO keyless_rows SELECT (ARRAY['a', 'b', NULL])[1 + n % 3], {big('z')}"
        " FROM generate_series(1, 9) n",
        changes=(
            "UPDATE keyless_rows SET kind = 'a'"
            " WHERE ctid = (SELECT min(ctid) FROM keyless_rows WHERE kind = 'b')",
            "UPDATE keyless_rows SET kind = NULL"
            " WHERE ctid = (SELECT min(ctid) FROM keyless_rows WHERE kind = 'a')",
            "DELETE FROM keyless_rows"
            " WHERE ctid = (SELECT min(ctid) FROM keyless_rows WHERE kind IS NULL)",
        ),
    ),
    Trap(
        "identity and generated columns",
        """CREATE TABLE made (
               id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
               other int GENERATED BY DEFAULT AS IDENTITY,
               total int GENERATED ALWAYS AS (price * 2) STORED,
               price int NOT NULL
           );
           CREATE TABLE made_aside (
               code text PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY UNIQUE, v int,
               body text
           );
           ALTER TABLE made_aside ALTER body SET STORAGE EXTERNAL""",
        "made: {owner: a, reference_in: [b]}\nmade_aside: a\n",
        rows="INSERT INTO made (price) SELECT n FROM generate_series(1, 5) n;"
        f" INSERT INTO made_aside (code, v, body) SELECT n, n, {big('s')} || n"
        " FROM generate_series(1, 5) n",
        changes=(
            "UPDATE made SET price = 10 WHERE id = 1",
            "UPDATE made SET other = 77 WHERE id = 2",
            "UPDATE made SET id = DEFAULT WHERE id = 3",
            "INSERT INTO made (price) VALUES (6)",
            "UPDATE made_aside SET v = 0 WHERE code = '1'",
            "UPDATE made_aside SET number = DEFAULT WHERE code = '2'",
            "INSERT INTO made_aside OVERRIDING SYSTEM VALUE VALUES ('x', 1000, 1)",
            "DELETE FROM made_aside WHERE code = '3'",
        ),
    ),
)

TRUNCATES = (
    Trap(
        "TRUNCATE, mixed with rows in one transaction",
        """CREATE TABLE cut (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text UNIQUE);
           CREATE TABLE cut_child (id int PRIMARY KEY, cut_id int REFERENCES cut);
           CREATE TABLE cut_other (id int PRIMARY KEY, v text UNIQUE);
           CREATE TABLE cut_keyless (v text)""",
        "cut: {owner: a, reference_in: [b]}\ncut_child: a\ncut_other: a\ncut_keyless: a\n",
        rows="INSERT INTO cut (v) SELECT 'v' || n FROM generate_series(1, 9) n;"
        " INSERT INTO cut_child SELECT n, n FROM generate_series(1, 9) n;"
        " INSERT INTO cut_other SELECT n, n FROM generate_series(1, 9) n;"
        " INSERT INTO cut_keyless SELECT n FROM generate_series(1, 9) n",
        copied=("TRUNCATE cut_other", "INSERT INTO cut_other VALUES (1, '1'), (2, '2')"),
        changes=(
            "BEGIN; UPDATE cut SET v = 'gone' WHERE id = 1;"
            " INSERT INTO cut (v) VALUES ('gone too');"
            # Half of an exchange before, half of it after.
            " UPDATE cut_other SET v = 'tmp' WHERE id = 1;"
            " UPDATE cut_other SET v = '1' WHERE id = 2;"
            " TRUNCATE cut, cut_keyless RESTART IDENTITY CASCADE;"
            " UPDATE cut_other SET v = '2' WHERE id = 1;"
            " INSERT INTO cut (v) VALUES ('first'), ('second');"
            " INSERT INTO cut_keyless VALUES ('one'), ('one');"
            " UPDATE cut SET v = 'First' WHERE id = 1; COMMIT",
            "INSERT INTO cut_child VALUES (1, 2)",
            "BEGIN; TRUNCATE cut_other; INSERT INTO cut_other VALUES (5, 'x'); ROLLBACK",
            "BEGIN; INSERT INTO cut_keyless VALUES ('two'); TRUNCATE cut_keyless;"
            " INSERT INTO cut_keyless VALUES ('three'); TRUNCATE cut_keyless;"
            " INSERT INTO cut_keyless VALUES ('four'); COMMIT",
        ),
    ),
    Trap(
        "TRUNCATE of derived rows leaves those of other routes",
        "CREATE TABLE cut_web (id int PRIMARY KEY, v text);"
        " CREATE TABLE cut_post (id int PRIMARY KEY, v text)",
        """cut_web:
  owner: a
  derive: [{into: hub.cut_all, key: {id: id, via: "'web'"}, columns: {v: v}}]
cut_post:
  owner: b
  derive: [{into: hub.cut_all, key: {id: id, via: "'post'"}, columns: {v: v}}]
""",
        derived="CREATE TABLE public.cut_all (id int, via text, v text, PRIMARY KEY (id, via));",
        rows="INSERT INTO cut_web SELECT n, 'w' FROM generate_series(1, 5) n;"
        " INSERT INTO cut_post SELECT n, 'p' FROM generate_series(1, 5) n",
        changes=("TRUNCATE cut_web", "INSERT INTO cut_web VALUES (1, 'new')"),
    ),
)

PARTITIONS = (
    Trap(
        "partitions, written by their root and by themselves",
        """CREATE TABLE parted (at date, id int, v text, PRIMARY KEY (at, id))
               PARTITION BY RANGE (at);
           CREATE TABLE parted_1 PARTITION OF parted
               FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id);
           CREATE TABLE parted_1_odd PARTITION OF parted_1 FOR VALUES IN (1, 3, 5, 7, 9);
           CREATE TABLE parted_1_even PARTITION OF parted_1 DEFAULT;
           -- Other numbers of the same columns.
           CREATE TABLE odd.parted_2 (v text, dropped int, id int NOT NULL, at date NOT NULL);
           ALTER TABLE odd.parted_2 DROP dropped;
           ALTER TABLE parted ATTACH PARTITION odd.parted_2
               FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')""",
        "parted: {owner: a, reference_in: [b]}\n",
        rows="INSERT INTO parted SELECT '2024-12-20'::date + n, n, 'v' || n"
        " FROM generate_series(1, 20) n",
        copied=("UPDATE parted SET v = 'copied' WHERE id = 20",),
        changes=(
            "UPDATE parted SET v = 'root' WHERE id IN (1, 2, 15)",
            "UPDATE parted_1_odd SET v = 'leaf' WHERE id = 3",
            "UPDATE odd.parted_2 SET v = 'leaf' WHERE id = 16",
            "UPDATE parted SET at = '2025-06-01' WHERE id = 5",
            "UPDATE parted SET at = '2024-06-01' WHERE id = 17",
            "UPDATE parted SET id = 100 WHERE id = 7",
            "INSERT INTO odd.parted_2 VALUES ('direct', 200, '2025-02-02')",
            "DELETE FROM parted_1_even WHERE id = 4",
            "BEGIN; INSERT INTO parted VALUES ('2024-03-03', 300, 'a'), ('2025-03-03', 300, 'b');"
            " UPDATE parted SET v = v || v WHERE id = 300; COMMIT",
        ),
    ),
    Trap(
        "TRUNCATE of partitions",
        """CREATE TABLE cut_parted (id int, v text, PRIMARY KEY (id)) PARTITION BY LIST (id);
           CREATE TABLE cut_parted_1 PARTITION OF cut_parted FOR VALUES IN (1, 2, 3);
           CREATE TABLE cut_parted_2 PARTITION OF cut_parted DEFAULT;
           CREATE TABLE cut_root (id int, v text) PARTITION BY LIST (id);
           CREATE TABLE cut_root_1 PARTITION OF cut_root FOR VALUES IN (1, 2, 3);
           CREATE TABLE cut_root_2 PARTITION OF cut_root DEFAULT""",
        "cut_parted: {owner: a, reference_in: [b]}\ncut_root: a\n",
        rows="INSERT INTO cut_parted SELECT n, n FROM generate_series(1, 9) n;"
        " INSERT INTO cut_root SELECT n, n FROM generate_series(1, 9) n",
        changes=(
            "BEGIN; UPDATE cut_parted SET v = 'x'; INSERT INTO cut_parted VALUES (10, 'ten');"
            " TRUNCATE cut_parted_1; INSERT INTO cut_parted VALUES (2, 'two'); COMMIT",
            "BEGIN; INSERT INTO cut_root VALUES (10, 'ten'); TRUNCATE cut_root;"
            " INSERT INTO cut_root VALUES (1, 'one'), (20, 'twenty'); COMMIT",
        ),
    ),
    Trap(
        "TRUNCATE of a whole table with partitions, whose rows become others",
        "".join(
            f"""CREATE TABLE {name} (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
           CREATE TABLE {name}_1 PARTITION OF {name} FOR VALUES IN (1, 2, 3) PARTITION BY LIST (id);
           CREATE TABLE {name}_11 PARTITION OF {name}_1 FOR VALUES IN (1, 2);
           CREATE TABLE {name}_12 PARTITION OF {name}_1 DEFAULT;
           CREATE TABLE {name}_2 PARTITION OF {name} DEFAULT;"""
            for name in ("cut_known", "cut_shared")
        ),
        """cut_known:
  owner: a
  derive: [{into: hub.cut_derived, key: {id: id}, columns: {v: v}}]
cut_shared:
  split_rows: {a: "id % 2 = 0", b: "id % 2 <> 0"}
""",
        derived="CREATE TABLE public.cut_derived (id int PRIMARY KEY, v text);",
        rows="INSERT INTO cut_known SELECT n, n FROM generate_series(1, 9) n;"
        " INSERT INTO cut_shared SELECT n, n FROM generate_series(1, 9) n",
        copied=("TRUNCATE cut_known", "INSERT INTO cut_known VALUES (5, 'new')"),
        changes=(
            "BEGIN; UPDATE cut_known SET v = 'x'; INSERT INTO cut_known VALUES (10, 'ten');"
            " UPDATE cut_shared SET v = 'x' WHERE id < 5; TRUNCATE cut_known, cut_shared;"
            " INSERT INTO cut_known VALUES (2, 'two'), (8, 'e');"
            " INSERT INTO cut_shared VALUES (2, 'two'), (7, 's'); COMMIT",
            "TRUNCATE cut_known_1, cut_known_2",
            "INSERT INTO cut_known VALUES (3, 'three')",
        ),
    ),
    Trap(
        "partitions of a table without a key",
        """CREATE TABLE parted_keyless (k text, v int) PARTITION BY LIST (k);
           CREATE TABLE parted_keyless_a PARTITION OF parted_keyless FOR VALUES IN ('a');
           CREATE TABLE parted_keyless_b PARTITION OF parted_keyless DEFAULT""",
        "parted_keyless: a\n",
        rows="INSERT INTO parted_keyless SELECT k, n FROM unnest('{a,a,b,b}'::text[]) k,"
        " generate_series(1, 4) n",
        changes=(
            "DELETE FROM parted_keyless WHERE ctid = '(0,1)'",
            "UPDATE parted_keyless SET k = 'c' WHERE v = 2",
            "UPDATE parted_keyless_a SET v = 30 WHERE v = 3",
        ),
    ),
)

NAMES = (
    Trap(
        "quoted, reserved and hostile names",
        """CREATE TABLE odd."Mixed Case" ("Id" int PRIMARY KEY, "select" text, "per%cent" text,
               "per%sent" text, "bra{}ce" text, "quo""te" text, "apo's" text, "back\\slash" text,
               "комп" text, _op text, _count int, _unchanged text, generate_series int,
               f int, s int, g int, image text);
           ALTER TABLE odd."Mixed Case" ALTER "select" SET STORAGE EXTERNAL,
               ALTER "back\\slash" SET STORAGE EXTERNAL, ALTER "quo""te" SET STORAGE EXTERNAL,
               ALTER "apo's" SET STORAGE EXTERNAL;
           CREATE TABLE "user" ("order" int, "table" text, "%s {x} ""y"" 'z'" text);
           CREATE TYPE "Sta te" AS ENUM ('a''b', 'c"d', 'e%s', 'f{}');
           CREATE TABLE "from" ("Key %s" int PRIMARY KEY, "Sta te" "Sta te")""",
        """odd.Mixed Case: {owner: a, reference_in: [b]}
user: a
from:
  owner: a
  derive:
    - into: hub.from_derived
      key: {key: '"Key %s"'}
      columns: {v: 'CASE WHEN "Sta te" = ''e%s'' THEN ''100 %s {} "q"'' ELSE ''it''''s'' END'}
      where: '"Sta te"::text LIKE ''%''  AND "Key %s" % 7 <> 0'
""",
        derived="CREATE TABLE public.from_derived (key int PRIMARY KEY, v text);",
        rows=f"""INSERT INTO odd."Mixed Case" SELECT n, {big(1)}, '%', '%s', '{{}}', {big(2)},
               {big(3)}, {big(4)}, 'д', 'op', n, 'un', n, n, n, n, 'i' FROM generate_series(1, 5) n;
           INSERT INTO "user" SELECT n, 't', 'x' FROM generate_series(1, 5) n;
           INSERT INTO "from" SELECT n, 'e%s' FROM generate_series(1, 9) n""",
        changes=(
            """UPDATE odd."Mixed Case" SET "per%cent" = '100%', _count = -1 WHERE "Id" = 1""",
            """UPDATE odd."Mixed Case" SET "Id" = 12 WHERE "Id" = 2""",
            """DELETE FROM odd."Mixed Case" WHERE "Id" = 3""",
            """UPDATE "user" SET "table" = 'u' WHERE "order" = 1""",
            """DELETE FROM "user" WHERE "order" = 2""",
            """INSERT INTO "user" VALUES (3, 't', 'x'), (3, 't', 'x')""",
            """UPDATE "from" SET "Sta te" = 'f{}' WHERE "Key %s" = 1""",
            """UPDATE "from" SET "Key %s" = 14 WHERE "Key %s" = 2""",
            """UPDATE "from" SET "Key %s" = 15, "Sta te" = 'c"d' WHERE "Key %s" = 7""",
        ),
    ),
)

VALUES = (
    Trap(
        "every type",
        """CREATE TYPE colour AS ENUM ('red', 'it''s green', 'b,l"u\\e');
           CREATE DOMAIN positive AS numeric(12, 3) NOT NULL CHECK (VALUE > 0);
           CREATE DOMAIN colours AS colour[];
           CREATE TYPE point3 AS (x int, y text, "Z z" colour);
           CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = spans);
           CREATE TABLE typed (
               id uuid PRIMARY KEY, e colour, es colour[], d positive, ds colours,
               c point3, cs point3[], r int4range, tr tstzrange, mr nummultirange, s span, ss spans,
               j json, jb jsonb, b bytea, bits bit(5), vb varbit, i inet, ci cidr,
               mac macaddr, m money, tv tsvector, tq tsquery, iv interval, ch char(4),
               vc varchar(9), n numeric, f4 float4, f8 float8, dt date, t time, tt timetz,
               ts timestamp, tz timestamptz, bo bool, o oid, nm name, pt point, bx box,
               pth path, cir circle,
               ar int[], ar2 text[][], lsn pg_lsn, jp jsonpath, cc "char", v8 int8, v2 int2
           )""",
        "typed: {owner: a, reference_in: [b]}\n",
        rows="INSERT INTO typed (id, d) SELECT md5(n::text)::uuid, n FROM generate_series(1, 9) n",
        changes=(
            r"""UPDATE typed SET e = 'it''s green', es = ARRAY['red', NULL, 'b,l"u\e']::colour[],
                d = 0.001, ds = '{red}', c = (1, 'a "quoted", \ one', 'b,l"u\e'),
                cs = ARRAY[(1, NULL, 'red')::point3, NULL], r = '(,5]', tr = '[infinity,)',
                mr = '{[1,2),(3,4]}', s = '[-0,NaN]', ss = '{[1,2),[3,4)}',
                j = '{"a" :  1, "a": 2}', jb = '{"b": 1e400, "a": "\\u00e4"}',
                b = '\x00ff0a5c', bits = '10101', vb = '', i = '::1/64',
                ci = '10.0.0.0/8', mac = '08:00:2b:01:02:03', m = '-1234.56',
                tv = '''it''''s'':1A fat:2', tq = 'fat & !rat', iv = '-1 mon +2 days -03:00:00.5',
                ch = 'a', vc = ' v ', ar = '[0:1]={1,NULL}', ar2 = '{{"a","NULL"},{"",NULL}}'
                WHERE id = md5('1')::uuid""",
            """UPDATE typed SET n = 'NaN', f4 = '-0', f8 = 'NaN', dt = '4713-01-01 BC',
                ts = '294276-12-31 23:59:59.999999', tz = '4714-11-24 00:00:00+00 BC',
                t = '24:00', tt = '23:59:59.5-15:59', iv = '178000000 years' WHERE
                id = md5('2')::uuid""",
            """UPDATE typed SET n = 'Infinity', f4 = 'Infinity', f8 = '-Infinity',
                dt = 'infinity', ts = '-infinity', tz = 'infinity' WHERE id = md5('3')::uuid""",
            """UPDATE typed SET n = '-Infinity', f4 = 1e-45, f8 = 5e-324, dt = '5874897-12-31',
                ts = '1699-12-31 23:59:59.999999', tz = '2240-01-01 00:00:00.000001+00'
                WHERE id = md5('4')::uuid""",
            """UPDATE typed SET n = 1.500, f8 = 0.1 + 0.2::float8, f4 = 1.1,
                v8 = -9223372036854775808, v2 = -32768, o = 4294967295, bo = false,
                nm = 'name', pt = '(1e300,-0)',
                bx = '(1,2),(3,4)', pth = '[(0,0),(1,1)]', cir = '<(1,2),3>', lsn = 'FF/1',
                jp = '$.a[*] ? (@ > 1)', cc = 'c' WHERE id = md5('5')::uuid""",
            """UPDATE typed SET n = 0.00000000000000000000000000001, f8 = '-0', jb = 'null',
                j = 'null', ar = '{}', tv = '', b = '', vc = '', ch = '' WHERE
                id = md5('6')::uuid""",
            "UPDATE typed SET n = 1234567890123456789012345678901234567890.12345 WHERE"
            " id = md5('7')::uuid",
            "DELETE FROM typed WHERE id = md5('9')::uuid",
        ),
    ),
    Trap(
        "a key that is a composite, beside large values",
        """CREATE TYPE tint AS ENUM ('dark', 'dim');
           CREATE TYPE bulb AS (name text, now tint, were tint[]);
           CREATE TABLE bulbs (t tint[], b bulb, n int, big text, PRIMARY KEY (t, b));
           ALTER TABLE bulbs ALTER big SET STORAGE EXTERNAL""",
        "bulbs: {owner: a, reference_in: [b]}\n",
        rows="INSERT INTO bulbs SELECT ARRAY['dark', NULL]::tint[],"
        f" (n::text, 'dim', '{{dark,NULL}}')::bulb, n, {big('b')} FROM generate_series(1, 9) n",
        changes=(
            "UPDATE bulbs SET n = -n",
            "UPDATE bulbs SET t = t || 'dim'::tint WHERE n = -2",
            "UPDATE bulbs SET b.were = '{}' WHERE n = -3",
            "DELETE FROM bulbs WHERE n = -4",
        ),
    ),
    Trap(
        "values that name the types of what is in them",
        """CREATE TYPE shade AS ENUM ('dark', 'dim', 'it''s "li,ght');
           CREATE DOMAIN few AS int CHECK (VALUE < 9);
           CREATE DOMAIN shades AS shade[];
           CREATE TYPE lamp AS (name text, now shade, were shade[], n few, all_of shades[]);
           CREATE TYPE lights AS (one lamp, more lamp[]);
           CREATE TABLE lit (
               id int PRIMARY KEY, s shade[], f few[], d shades, ds shades[], l lamp,
               ls lights[], big shade[]
           );
           ALTER TABLE lit ALTER big SET STORAGE EXTERNAL;
           CREATE TABLE lit_rows (id int PRIMARY KEY, s shade[] NOT NULL, l lamp, big shade[]);
           ALTER TABLE lit_rows ALTER big SET STORAGE EXTERNAL;
           CREATE TABLE lit_keyless (s shade[], l lamp, ls lights[])""",
        """lit:
  owner: a
  reference_in: [b]
  derive:
    - into: hub.lit_derived
      key: {id: id}
      columns: {first: "s[1]::text", now: "(l).now::text", many: "cardinality(big)"}
lit_rows: {split_rows: {a: "cardinality(s) = 2", b: "cardinality(s) <> 2"}}
lit_keyless: a
""",
        derived="CREATE TABLE public.lit_derived (id int PRIMARY KEY, first text, now text,"
        " many int);",
        rows="""INSERT INTO lit SELECT n, '{dark,NULL}', '{1,NULL,8}', '{dim}',
                   '{"{dim}",NULL,"{}"}', ('l' || n, 'dim', '{dark}', 1, '{"{dark}"}')::lamp, NULL,
                   array_fill('dim'::shade, ARRAY[2000])
                   FROM generate_series(1, 9) n;
               INSERT INTO lit_rows SELECT n, array_fill('dim'::shade, ARRAY[n]),
                   (NULL, 'dim', '{}', n, '{}')::lamp, array_fill('dark'::shade, ARRAY[2000])
                   FROM generate_series(1, 4) n;
               INSERT INTO lit_keyless SELECT ARRAY['dark']::shade[],
                   ('l', NULL, NULL, n % 3, NULL)::lamp, ARRAY[ROW(NULL, '{}')::lights, NULL]
                   FROM generate_series(1, 9) n""",
        changes=(
            """UPDATE lit SET s = '{}', f = '{}', d = '{}', ds = '{}', ls = '{}' WHERE id = 1""",
            """UPDATE lit SET s = '[0:1][3:4]={{dark,NULL},{"it''s \\"li,ght",dim}}',
                   ls = ARRAY[NULL, ROW(NULL, NULL)::lights,
                       ROW(ROW('', 'dark', '{}', 8, '{NULL}')::lamp,
                       ARRAY[ROW('a', NULL, '{dim,NULL}', NULL, NULL)::lamp, NULL])::lights]
                   WHERE id = 2""",
            "UPDATE lit SET s = NULL, f = NULL, d = NULL, l = NULL WHERE id = 3",
            "UPDATE lit SET l.were = '{dim}', big = NULL WHERE id = 4",
            "UPDATE lit SET id = 105, l.name = 'moved' WHERE id = 5",
            """INSERT INTO lit SELECT id + 10, s, f, d, ds, l, ls, big FROM lit WHERE id < 3""",
            "DELETE FROM lit WHERE id = 6",
            "UPDATE lit_rows SET s = s || 'dark'::shade",
            "UPDATE lit_rows SET id = 12, s = '{dark,dark}' WHERE id = 2",
            "UPDATE lit_keyless SET s = s || 'dim'::shade WHERE (l).n = 1",
            "DELETE FROM lit_keyless WHERE (l).n = 2",
        ),
    ),
    Trap(
        "types that come as text",
        "CREATE TABLE in_text (id int PRIMARY KEY, names regtype[], rights aclitem[])",
        "in_text: a\n",
        rows="INSERT INTO in_text SELECT n, '{int}' FROM generate_series(1, 5) n",
        changes=(
            """UPDATE in_text SET names = '{text,NULL}', rights = '{postgres=r/postgres}'
                   WHERE id < 3""",
            "DELETE FROM in_text WHERE id = 4",
            "INSERT INTO in_text VALUES (6, '{}', '{}')",
        ),
    ),
    Trap(
        "text that COPY has to escape",
        r"""CREATE TABLE texts (id int PRIMARY KEY, v text, w text);
            CREATE TABLE texts_key (v text PRIMARY KEY, n int)""",
        "texts: a\ntexts_key: a\n",
        rows="INSERT INTO texts SELECT n, 'v', 'w' FROM generate_series(1, 3) n",
        changes=(
            r"""INSERT INTO texts VALUES (10, E'tab\t nl\n cr\r crlf\r\n bs\\ \b\f\v', E'\\.'),
                (11, '', NULL), (12, NULL, ''), (13, '\N', '\n'), (14, E'\\.\n', 'Ünïcødé 漢字 🐘'),
                (15, E'\u0001\u007f', ' '), (16, '{}', '"'), (17, '%s %% {}', '''')""",
            r"""UPDATE texts SET v = E'\\', w = E'\t' WHERE id = 1""",
            r"""INSERT INTO texts_key SELECT chr(n), n FROM generate_series(1, 300) n""",
            "UPDATE texts_key SET n = -n",
            r"UPDATE texts_key SET v = v || E'\\' || v WHERE n % 2 = 0",
            "DELETE FROM texts_key WHERE n % 3 = 0",
            "INSERT INTO texts_key VALUES ('', 0)",
        ),
    ),
    Trap(
        "null, empty and defaults stay apart",
        "CREATE TABLE empties (id int PRIMARY KEY, v text DEFAULT 'def', a int[] DEFAULT '{1}')",
        "empties: a\n",
        rows="INSERT INTO empties SELECT n FROM generate_series(1, 4) n",
        changes=(
            "UPDATE empties SET v = NULL, a = NULL WHERE id = 1",
            "UPDATE empties SET v = '', a = '{}' WHERE id = 2",
            "UPDATE empties SET v = 'NULL', a = '{NULL}' WHERE id = 3",
            "INSERT INTO empties VALUES (5, NULL, NULL)",
        ),
    ),
)

ROUTES = (
    Trap(
        "a predicate on text of another collation than the targets' databases",
        # Only the databases' C.UTF-8 knows a capital É.
        """CREATE TABLE folded (code text COLLATE "C" PRIMARY KEY, v int)""",
        """folded: {split_rows: {a: "lower(code) = code", b: "lower(code) <> code"}}\n""",
        rows="INSERT INTO folded SELECT (ARRAY['É', 'E'])[1 + n % 2] || n, n"
        " FROM generate_series(1, 8) n",
        changes=(
            "UPDATE folded SET v = v + 10 WHERE v < 5",
            "UPDATE folded SET code = 'É0' WHERE code = 'E5'",
            "INSERT INTO folded VALUES ('É9', 9), ('E9', 9)",
            "DELETE FROM folded WHERE code IN ('É8', 'E7')",
        ),
    ),
    Trap(
        "rows enter and leave predicates, NULL is not true",
        "CREATE TABLE halves (id int PRIMARY KEY, kind text, v int)",
        """halves: {split_rows: {a: "kind = 'a'", b: "kind = 'b'",
  hub: "kind IS NULL OR kind NOT IN ('a', 'b')"}}\n""",
        rows="INSERT INTO halves SELECT n, (ARRAY['a', 'b', 'c', NULL])[1 + n % 4], n"
        " FROM generate_series(1, 16) n",
        copied=("UPDATE halves SET kind = 'a' WHERE id = 16",),
        changes=(
            "UPDATE halves SET kind = 'b' WHERE kind = 'a' AND id < 9",
            "UPDATE halves SET kind = NULL WHERE kind = 'b' AND id > 9",
            "UPDATE halves SET kind = 'a' WHERE kind IS NULL AND id < 4",
            "UPDATE halves SET id = id + 100, kind = 'b' WHERE kind = 'c'",
            "UPDATE halves SET v = -v",
            "DELETE FROM halves WHERE kind IS NULL",
        ),
    ),
    Trap(
        "a derived key that is another unique column moves between rows",
        "CREATE TABLE members (id int PRIMARY KEY, email text, active bool NOT NULL, v int);"
        " CREATE UNIQUE INDEX ON members (email) WHERE active",
        """members:
  owner: a
  derive:
    - into: hub.contacts
      key: {email: email}
      columns: {member: id, v: v}
      where: active
""",
        derived="CREATE TABLE public.contacts (email text PRIMARY KEY, member int, v int);",
        rows="INSERT INTO members SELECT n, 'e' || n % 10, n <= 10, n"
        " FROM generate_series(1, 20) n",
        changes=(
            # Rows that do not flow have the keys of rows that do.
            "UPDATE members SET v = 0 WHERE id IN (11, 12)",
            "DELETE FROM members WHERE id = 13",
            "UPDATE members SET email = 'other' WHERE id = 14",
            "BEGIN; UPDATE members SET active = false WHERE id = 5;"
            " UPDATE members SET active = true WHERE id = 15; COMMIT",
            "UPDATE members SET email = 'moved' WHERE id = 6",
            "UPDATE members SET email = 'e6' WHERE id = 7",
            "BEGIN; INSERT INTO members VALUES (30, 'e8', false, 1);"
            " DELETE FROM members WHERE id = 30; COMMIT",
            "BEGIN; DELETE FROM members WHERE id = 9;"
            " INSERT INTO members VALUES (31, 'e9', true, 1); COMMIT",
            "UPDATE members SET id = 110 WHERE id = 10",
        ),
    ),
    Trap(
        "a derived key that is a part of the key",
        "CREATE TABLE addresses (customer int, number int, main bool, street text,"
        " PRIMARY KEY (customer, number))",
        """addresses:
  owner: a
  derive:
    - into: hub.main_address
      key: {customer: customer}
      columns: {street: street}
      where: main
""",
        derived="CREATE TABLE public.main_address (customer int PRIMARY KEY, street text);",
        rows="INSERT INTO addresses SELECT c, n, n = 1, c || '/' || n"
        " FROM generate_series(1, 6) c, generate_series(1, 3) n",
        changes=(
            "UPDATE addresses SET street = 'aside' WHERE customer = 1 AND number = 2",
            "DELETE FROM addresses WHERE customer = 2 AND number = 3",
            "BEGIN; UPDATE addresses SET main = false WHERE customer = 3 AND number = 1;"
            " UPDATE addresses SET main = true WHERE customer = 3 AND number = 2; COMMIT",
            "UPDATE addresses SET main = false WHERE customer = 4",
            "DELETE FROM addresses WHERE customer = 5 AND main",
        ),
    ),
    Trap(
        "a derived key of a table without a key",
        "CREATE TABLE logins (who text, at timestamptz)",
        """logins:
  owner: a
  derive:
    - into: hub.login
      key: {who: who}
      columns: {day: "(at AT TIME ZONE 'UTC')::date"}
""",
        derived="CREATE TABLE public.login (who text PRIMARY KEY, day date);",
        rows="INSERT INTO logins SELECT 'u' || n, '2024-01-01 00:00:00+00' FROM"
        " generate_series(1, 6) n",
        changes=(
            "UPDATE logins SET at = '2024-02-02 23:59:59+00' WHERE who = 'u1'",
            "UPDATE logins SET who = 'v2' WHERE who = 'u2'",
            "DELETE FROM logins WHERE who = 'u3'",
            "BEGIN; DELETE FROM logins WHERE who = 'u4';"
            " INSERT INTO logins VALUES ('u4', '2024-03-03'); COMMIT",
        ),
    ),
    Trap(
        "several derived routes into one table, one row after the other",
        "CREATE TABLE jobs (id int PRIMARY KEY, kind text, state text)",
        """jobs:
  owner: a
  derive:
    - into: hub.work
      key: {id: id, of: "'print'"}
      columns: {state: "upper(state)"}
      where: "kind = 'print'"
    - into: hub.work
      key: {id: id, of: "'cut'"}
      columns: {state: "lower(state)"}
      where: "kind = 'cut'"
""",
        derived="CREATE TABLE public.work (id int, of text, state text, PRIMARY KEY (id, of));",
        rows="INSERT INTO jobs SELECT n, (ARRAY['print', 'cut'])[1 + n % 2], 'New'"
        " FROM generate_series(1, 8) n",
        changes=(
            "UPDATE jobs SET kind = CASE kind WHEN 'cut' THEN 'print' ELSE 'cut' END WHERE id < 4",
            "UPDATE jobs SET kind = CASE kind WHEN 'cut' THEN 'print' ELSE 'cut' END WHERE id < 2",
            "UPDATE jobs SET state = 'Done' WHERE id > 3",
            "DELETE FROM jobs WHERE id = 8",
        ),
    ),
    Trap(
        "a column is left behind, another is only a key",
        "CREATE TABLE partial (id int PRIMARY KEY, v text, legacy text NOT NULL);"
        " CREATE TABLE only_key (a int, b text, PRIMARY KEY (a, b))",
        "partial: {owner: a, drop: [legacy], reference_in: [b]}\nonly_key: a\n",
        rows="INSERT INTO partial SELECT n, 'v', 'l' FROM generate_series(1, 5) n;"
        " INSERT INTO only_key SELECT n, 'b' FROM generate_series(1, 5) n",
        changes=(
            "UPDATE partial SET v = 'w' WHERE id = 1",
            "UPDATE partial SET legacy = 'm' WHERE id = 2",
            "UPDATE only_key SET b = 'c' WHERE a = 1",
            "UPDATE only_key SET a = a WHERE a = 2",
            "DELETE FROM only_key WHERE a = 3",
        ),
    ),
)

TRANSACTIONS = (
    Trap(
        "savepoints and aborted subtransactions",
        "CREATE TABLE nested (id int PRIMARY KEY, v text)",
        "nested: a\n",
        rows="INSERT INTO nested SELECT n, 'v' FROM generate_series(1, 9) n",
        changes=(
            "BEGIN; UPDATE nested SET v = 'kept' WHERE id = 1; SAVEPOINT a;"
            " UPDATE nested SET v = 'undone' WHERE id IN (1, 2); DELETE FROM nested WHERE id = 3;"
            " SAVEPOINT b; INSERT INTO nested VALUES (10, 'undone'); ROLLBACK TO a;"
            " UPDATE nested SET v = 'after' WHERE id = 2; SAVEPOINT c;"
            " INSERT INTO nested VALUES (11, 'kept'); RELEASE c; COMMIT",
            "BEGIN; DELETE FROM nested; ROLLBACK",
            "DO $$ BEGIN FOR n IN 1..200 LOOP BEGIN INSERT INTO nested VALUES (100 + n, 'n');"
            " IF n % 3 = 0 THEN RAISE division_by_zero; END IF;"
            " EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$",
        ),
    ),
    Trap(
        "messages of others under the markers' prefix",
        "CREATE TABLE told (id int PRIMARY KEY, v text)",
        "told: a\n",
        rows="INSERT INTO told SELECT n, 'v' FROM generate_series(1, 3) n",
        changes=(
            "SELECT pg_logical_emit_message(true, 'dbsplit', 'not-a-marker')",
            "BEGIN; UPDATE told SET v = 'before' WHERE id = 1;"
            " SELECT pg_logical_emit_message(true, 'dbsplit', '\\xff'::bytea);"
            " UPDATE told SET v = 'after' WHERE id = 2; COMMIT",
        ),
    ),
)

TRAPS = (
    *TOAST, *KEYS, *IDENTITIES, *TRUNCATES, *PARTITIONS, *NAMES, *VALUES, *ROUTES, *TRANSACTIONS,
)  # fmt: skip
