# ruff: noqa: S608 -- all of the SQL is the test's own
"""Types that few tables have: nothing is missed or invented between versions of PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from psycopg import sql

from tests.conftest import require_version
from tests.integration.test_compare import Bench, database
from tests.integration.test_compare_unlike import compared
from toolkit.servers import Server, running_server

# Of each type values that differ in as little as they can.
RARE = {
    "int4multirange": ("{}", "{[1,2)}", "{[1,2),[3,4)}", "{(,2)}"),
    "datemultirange": ("{(,infinity)}", "{(,infinity]}", "{[-infinity,2020-01-01)}"),
    "numrange": ("[1.0,2)", "[1.00,2)", "[1.0,2]", "empty", "(,)", "[,NaN]"),
    "tsvector": ("a:1A", "a:1B", "a:1", "a", "'a ':1"),
    "tsquery": ("a & b", "b & a", "a <-> b", "a <2> b", "a:A", "a:*"),
    "inet": ("10.0.0.1/24", "10.0.0.1/25", "10.0.0.1", "::10.0.0.1", "::ffff:10.0.0.1"),
    "cidr": ("10.0.0.0/24", "10.0.0.0/25", "::/0", "0.0.0.0/0"),
    "macaddr8": ("08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:04"),
    "bit varying": ("1", "01", "10", ""),
    "money": ("1.25", "1.26", "-92233720368547758.08"),
    "interval": ("1 mon", "30 days", "720:00:00", "-00:00:00.000001", "00:00:00"),
    "pg_lsn": ("0/0", "0/1", "1/0"),
    "txid_snapshot": ("10:20:10,14", "10:20:10,15", "10:20:"),
    "xid8": ("0", "18446744073709551615"),
    "oid": ("0", "4294967295"),
    "regclass": ("pg_class", "pg_type", "-", "99999"),
    "int2vector": ("1 2", "2 1", "1"),
    "oidvector": ("1 2", "12", ""),
    "name": ("a", "A", "a "),
    '"char"': ("a", "A", " ", "", r"\351"),
    "box": ("(1,2),(3,4)", "(1,2),(4,3)", "(1,2),(3,NaN)", "(1,2),(3,-0)"),
    "circle": ("<(1,2),3>", "<(1,2),3.0000000000000004>"),
    "polygon": ("((1,2),(3,4))", "((3,4),(1,2))", "((1,2))"),
    "path": ("((1,2),(3,4))", "[(1,2),(3,4)]", "[(-0,2),(3,4)]", "[(0,2),(3,4)]"),
    "line": ("{1,2,3}", "{2,4,6}"),
    "lseg": ("[(1,2),(3,4)]", "[(3,4),(1,2)]"),
    "point": ("(0,0)", "(-0,0)", "(0,5e-324)"),
    "timetz": ("01:00+00", "02:00+01", "24:00+00", "00:00+00"),
    "jsonpath": ("$.a", 'lax $."a b"', "strict $.a", "$.a ? (@ > 1)", "$.a ? (@ > 1.0)"),
    "json": ('{"a":1}', '{"a": 1}', '{"a":1,"a":1}'),
    "jsonb": ("1.0", "1.00", '"1.0"', "null"),
}


@pytest.mark.parametrize("version", ["15", "16"])
def test_rare_types_are_told_apart_between_versions_and_nothing_is_invented(
    source_server: Server, version: str
) -> None:
    require_version(version)
    with running_server(version=version) as other, ExitStack() as stack:
        dsns = [stack.enter_context(database(one)) for one in (source_server, other)]
        bench = Bench(*dsns)
        for number, (type_, values) in enumerate(RARE.items()):
            bench.both(
                f"CREATE TABLE t{number} (id int PRIMARY KEY, v {type_}, more {type_}[])",
                *(
                    f"INSERT INTO t{number} SELECT {n}, v, ARRAY[v, NULL]"
                    f" FROM (SELECT {sql.Literal(value).as_string()}::{type_} AS v) AS one"
                    for n, value in enumerate(values)
                ),
            )
        assert {str(one.table) for one in compared(bench).tables if one.state != "equal"} == set()
        for number, values in enumerate(RARE.values()):
            shift = f"(t.id + 1) % {len(values)}"
            bench.target(
                f"CREATE TABLE old AS SELECT * FROM t{number}",
                f"UPDATE t{number} AS t SET v = o.v FROM old AS o WHERE o.id = {shift}",
                "DROP TABLE old",
            )
        found = {str(one.table): (one.different, one.reason) for one in compared(bench).tables}
        assert found == {
            f"public.t{number}": (len(values), "") for number, values in enumerate(RARE.values())
        }
