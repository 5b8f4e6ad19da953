"""Random tables: every kind of key, every type that has hurt somebody, and what rows may hold.

A schema is text for the server and some facts for those who write rows.  What a statement
would violate is found out by running it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

TABLES_MAX = 4
COLUMNS_MAX = 6
ROWS_MAX = 8

PREAMBLE = """
CREATE TYPE mood AS ENUM ('calm', 'Quite "upset"', 'it''s', '');
CREATE DOMAIN small AS int CHECK (value BETWEEN -3 AND 40);
CREATE DOMAIN word AS text CHECK (value <> 'never') DEFAULT 'w';
CREATE TYPE pair AS (a int, "B c" text);
"""

LARGE = "repeat(md5('{}'), 90)"  # out of line, as its storage is EXTERNAL

_INTS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "-1", "30")
_TEXTS = ("''", "'a'", "'b'", "'A'", "'a '", "'é\"''\\'", "'NULL'", "E'tab\\tline\\n'", "'\\N'")

VALUES: dict[str, tuple[str, ...]] = {
    "int": (*_INTS, "2147483647"),
    "bigint": (*_INTS, "-9223372036854775808"),
    "small": _INTS,
    "text": (*_TEXTS, *(LARGE.format(n) for n in range(4))),
    "word": _TEXTS,
    "varchar(12)": _TEXTS,
    "char(5)": ("'a'", "'b  '", "''", "'abcde'"),
    "numeric": ("'NaN'", "'Infinity'", "'-Infinity'", "0", "1", "1.0", "1.00", "-1e-30", "1e40"),
    "numeric(8, 2)": ("'NaN'", "0", "1", "2.5", "-999999.99"),
    "float8": ("'NaN'", "'Infinity'", "'-0'", "0", "1", "1e-300", "0.1"),
    "timestamptz": (
        *("'infinity'", "'-infinity'", "'epoch'", "'4713-01-01 00:00:00+00 BC'"),
        *("'2024-02-29 12:00:00.000001+00'", "'294276-12-31 23:59:59+00'"),
    ),
    "date": ("'infinity'", "'-infinity'", "'2024-02-29'", "'0044-03-15 BC'"),
    "interval": ("'1 mon'", "'30 days'", "'-00:00:00.000001'", "'1 year -2 days'"),
    "jsonb": ("'null'", "'{}'", "'[1, 1.0, \"é\"]'", """'{"a": {"b": null}, "c": "\\u00e9"}'"""),
    "bytea": ("''", "'\\x00ff'", f"decode({LARGE.format('b')}, 'hex')"),
    "int[]": ("'{}'", "'{1,NULL,2}'", "'[0:1]={1,2}'", "'{{1,2},{3,4}}'"),
    "text[]": ("'{}'", '\'{NULL,"NULL",""}\'', '\'{"a,b","{"}\''),
    "mood": ("'calm'", "'Quite \"upset\"'", "'it''s'", "''"),
    "mood[]": ("'{calm,NULL}'", "'{}'", "'[0:1][2:2]={{it''s},{NULL}}'"),
    "small[]": ("'{7,NULL}'", "'{}'"),
    "pair": ("ROW(1, 'x')", "ROW(NULL, NULL)", "ROW(2, '(\",)')"),
    "pair[]": ("ARRAY[ROW(1, 'x')::pair, NULL]", "'{}'"),
    "int4range": ("'empty'", "'[1,3)'", "'[3,5)'", "'(,)'"),
    "boolean": ("true", "false"),
    "regtype": ("'int'", "'text'"),
    "uuid": tuple(f"'00000000-0000-0000-0000-00000000000{n}'" for n in range(6)),
}

IN_TEXT = frozenset({"regtype"})
"""One of these anywhere, and all rows come as text; without, they are netted side by side."""

KEY_TYPES = ("int", "bigint", "text", "numeric", "uuid", "small", "mood", "timestamptz")
COUNTED = ("int", "bigint", "small", "numeric", "numeric(8, 2)")
UNIQUE_TYPES = ("int", "text", "numeric", "date", "varchar(12)")


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and what an INSERT may give it."""

    name: str
    type: str
    not_null: bool = False
    unique: str = ""  # "", "now" or "deferred"
    always: bool = False  # GENERATED ALWAYS AS IDENTITY
    generated: str = ""

    @property
    def ddl(self) -> str:
        """Its definition."""
        text = f'"{self.name}" {self.type}'
        if self.generated:
            return f"{text} GENERATED ALWAYS AS ({self.generated}) STORED"
        if self.always:
            text += " GENERATED ALWAYS AS IDENTITY (START 100)"
        elif self.not_null:
            text += " NOT NULL"
        if self.unique:
            text += " UNIQUE" + (" DEFERRABLE INITIALLY DEFERRED" if self.unique != "now" else "")
        return text


@dataclass(frozen=True, slots=True)
class Table:
    """A table, without its rows."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    ddl: tuple[str, ...]
    leaves: tuple[str, ...] = ()

    @property
    def written(self) -> tuple[Column, ...]:
        """Those of its columns that an INSERT gives."""
        return tuple(one for one in self.columns if not one.generated)


@dataclass(frozen=True, slots=True)
class Schema:
    """Some tables."""

    tables: tuple[Table, ...]

    @property
    def ddl(self) -> str:
        """All definitions."""
        return PREAMBLE + ";\n".join(text for table in self.tables for text in table.ddl)

    @property
    def plan(self) -> str:
        """The lines of `tables:`."""
        return "".join(f"{table.name}: a\n" for table in self.tables)


def values(column: Column) -> st.SearchStrategy[str]:
    """What may stand in an INSERT."""
    given = st.sampled_from(VALUES[column.type])
    if column.always:
        return st.just("DEFAULT") | given
    return given if column.not_null else given | st.just("NULL")


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    count = draw(st.integers(1, TABLES_MAX))
    avoided = draw(st.sampled_from((frozenset[str](), IN_TEXT)))
    made: list[Table] = []
    for number in range(count):
        made.append(draw(_table(number, tuple(made), avoided)))
    return Schema(tuple(made))


@st.composite
def _table(
    draw: st.DrawFn, number: int, before: tuple[Table, ...], avoided: frozenset[str]
) -> Table:
    name = f"t{number}"
    kind = draw(st.sampled_from(("none", "one", "one", "many", "deferred", "identity")))
    keys = {"none": 0, "many": 2}.get(kind, 1)
    key = tuple(
        Column(
            f"k{n}" if n else "k",
            "int" if kind == "identity" else draw(_type(KEY_TYPES, avoided)),
            not_null=True,
            always=kind == "identity",
        )
        for n in range(keys)
    )
    partitioned = kind not in ("deferred", "identity") and draw(st.integers(0, 3)) == 0
    rest = [
        draw(_column(f"c{n} C" if n == 1 else f"c{n}", avoided, plain=partitioned))
        for n in range(draw(st.integers(0 if key else 1, COLUMNS_MAX)))
    ]
    columns = draw(st.permutations([*key, *rest]))
    counted = next((one for one in rest if one.type == "int" and not one.unique), None)
    # Where old rows are logged in full, PostgreSQL 18 would refuse updates (identity-generated).
    generates = kind not in ("none", "deferred") and draw(st.booleans())
    if counted and generates:
        expression = f'"{counted.name}"::bigint * 2'
        columns.insert(
            draw(st.integers(0, len(columns))), Column("g", "bigint", generated=expression)
        )
    names = tuple(one.name for one in key)
    deferred = " DEFERRABLE INITIALLY IMMEDIATE" if kind == "deferred" else ""
    lines = [one.ddl for one in columns]
    if names:
        lines.append(f"PRIMARY KEY ({', '.join(names)}){deferred}")
    lines += draw(_references(name, columns, key, kind, before))
    if partitioned:
        ddl, leaves = _partitioned(name, lines, columns, names)
    else:
        ddl, leaves = (f"CREATE TABLE {name} (dropped int, {', '.join(lines)})",), ()
        ddl += (f"ALTER TABLE {name} DROP COLUMN dropped",)
    for one in columns:
        if one.type in ("text", "bytea"):
            ddl += tuple(
                f'ALTER TABLE {place} ALTER "{one.name}" SET STORAGE EXTERNAL'
                for place in (leaves or (name,))
            )
    may_be_full = kind in ("one", "many") and not partitioned and not (counted and generates)
    if may_be_full and draw(st.integers(0, 3)) == 0:
        ddl += (f"ALTER TABLE {name} REPLICA IDENTITY FULL",)
    return Table(name, tuple(columns), names, ddl, leaves)


def _type(some: Sequence[str], avoided: frozenset[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([one for one in some if one not in avoided])


@st.composite
def _column(draw: st.DrawFn, name: str, avoided: frozenset[str], *, plain: bool) -> Column:
    type_ = draw(_type(sorted(VALUES), avoided))
    unique = ""
    if type_ in UNIQUE_TYPES and not plain:
        unique = draw(st.sampled_from(("", "", "now", "deferred")))
    return Column(name, type_, not_null=draw(st.integers(0, 4)) == 0, unique=unique)


@st.composite
def _references(
    draw: st.DrawFn,
    name: str,
    columns: list[Column],
    key: tuple[Column, ...],
    kind: str,
    before: tuple[Table, ...],
) -> list[str]:
    """Foreign keys: to the table itself, or to one before it."""
    known = {table.name: _single_key(table) for table in before if not table.leaves}
    if kind == "one":
        known[name] = key[0]
    found = []
    for column in columns:
        fitting = [
            (table, to.name)
            for table, to in known.items()
            if to and to.type == column.type and column not in key and not column.generated
        ]
        if fitting and not column.not_null and draw(st.booleans()):
            table, to = draw(st.sampled_from(fitting))
            does = draw(
                st.sampled_from(("ON DELETE CASCADE ON UPDATE CASCADE", "ON DELETE SET NULL", ""))
            )
            late = draw(st.sampled_from(("", "DEFERRABLE INITIALLY DEFERRED")))
            found.append(f'FOREIGN KEY ("{column.name}") REFERENCES {table} ({to}) {does} {late}')
    return found


def _single_key(table: Table) -> Column | None:
    deferred = any(
        "PRIMARY KEY" in text and "DEFERRABLE INITIALLY IMM" in text for text in table.ddl
    )
    if len(table.key) != 1 or deferred:
        return None
    return next(one for one in table.columns if one.name == table.key[0])


def _partitioned(
    name: str, lines: list[str], columns: list[Column], key: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """By hash; the second leaf was a table of its own, its columns the other way round."""
    # An enum is hashed by its OID: the native subscription would refuse the leaf's rows.
    fitting = (one for one in columns if one.type in KEY_TYPES and one.type != "mood")
    hashed = {one.name for one in fitting if not one.generated}
    by = [one.name for one in columns if one.name in hashed.intersection(key or hashed)]
    if not by:
        return (f"CREATE TABLE {name} ({', '.join(lines)})",), ()
    leaves = (f"{name}_0", f"{name}_1")
    other_way = ", ".join(one.ddl for one in reversed(columns))
    attached = f"ATTACH PARTITION {leaves[1]} FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    return (
        f'CREATE TABLE {name} ({", ".join(lines)}) PARTITION BY HASH ("{by[0]}")',
        f"CREATE TABLE {leaves[0]} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        f"CREATE TABLE {leaves[1]} ({other_way})",
        f"ALTER TABLE {name} {attached}",
    ), leaves
