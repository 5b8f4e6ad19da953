"""Types of extensions and XML, which the embedded servers lack.

Whole feeds come in binary form with types that mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require_version
from tests.following import Following, following
from toolkit.links import forward_feed
from toolkit.servers import Server, running_server

SCHEMA = (
    "CREATE SCHEMA odd",
    "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree;"
    " CREATE EXTENSION cube; CREATE EXTENSION seg",
    "CREATE TABLE people (email citext PRIMARY KEY, more hstore, path ltree, n int, at cube[],"
    " asks lquery, words ltxtquery)",
    "INSERT INTO people SELECT 'Name' || n, hstore('k', n::text), ('top.n' || n)::ltree, n"
    " FROM generate_series(1, 50) AS n",
    "UPDATE people SET at = ARRAY[cube(1), cube(ARRAY[1, -0.5], ARRAY[2, 3]), NULL],"
    " asks = 'a.*{1,2}.!b|c%@*', words = 'a & !b*@ | c'",
    "CREATE TABLE places (id int PRIMARY KEY, at seg, names citext[])",
    "INSERT INTO places SELECT n, '1 .. 2', ARRAY['a', 'B'] FROM generate_series(1, 5) AS n",
    "CREATE TABLE pages (id int PRIMARY KEY, page xml, more xml[])",
    """INSERT INTO pages VALUES (1, '<?xml version="1.0" encoding="LATIN1"?><a>ä</a>', '{}')""",
)
CHANGES = (
    "UPDATE people SET email = upper(email::text) WHERE n < 10",
    "UPDATE people SET more = more || 'new=>NULL', path = path || 'leaf' WHERE n % 3 = 0",
    "DELETE FROM people WHERE n > 40; INSERT INTO people VALUES ('NAME41', '', '', 41)",
    "UPDATE people SET at = at[2:2] WHERE n = 7",
    "BEGIN; INSERT INTO people VALUES ('x', NULL, 'a.b', 1); UPDATE people SET email = 'X'"
    " WHERE email = 'x'; COMMIT",
    """INSERT INTO pages SELECT 2, page, ARRAY[page, NULL] FROM pages;
       INSERT INTO pages VALUES (3, '<?xml version="1.1" standalone="no"?><b/>', NULL)""",
)
PAGES = [
    (1, "<a>ä</a>", "{}"),
    (2, "<a>ä</a>", "{<a>ä</a>,NULL}"),
    (3, '<?xml version="1.1" standalone="no"?><b/>', None),
]
"""As text has them too: an encoding is not declared that a value may not have any more."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The embedded builds have no contrib modules; Debian's PostgreSQL has."""
    require_version("15")
    with running_server(version="15") as one:
        yield one


@pytest.fixture(
    params=["people: a\npages: b\n", "people: a\nplaces: a\npages: b\n"], ids=["binary", "text"]
)
def databases(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path
) -> Iterator[Following]:
    with following(server, server, tmp_path, tables=request.param) as one:
        one.execute(*SCHEMA)
        if "places" not in request.param:
            one.execute("DROP TABLE places; DROP EXTENSION seg")
        yield one


def test_they_are_copied_and_followed(databases: Following, request: pytest.FixtureRequest) -> None:
    databases.prepare()
    databases.execute("UPDATE people SET n = n + 1 WHERE email = 'name50'")
    databases.copy()
    databases.execute(*CHANGES)
    databases.stream()
    split = databases.open()
    assert forward_feed(split).binary is ("text" not in request.node.name)
    for route in split.routes:
        if route.source.name.name != "pages":
            assert databases.differences(split, route) == ([], []), route.id
    assert databases.rows("b", "SELECT id, page::text, more::text FROM pages ORDER BY id") == PAGES
    assert {one.state for one in databases.validated().values()} == {"equal"}
    emails = databases.rows("a", "SELECT email::text FROM people WHERE n < 3 ORDER BY n, 1")
    assert emails == [("NAME1",), ("X",), ("NAME2",)]
