"""What is read from code, scripts and logs, without a server."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from plans.catalog import Catalog, Column, Table, TableName
from plans.statements.scope import Scope
from plans.usage.code import code_strings
from plans.usage.collect import Collector
from plans.usage.files import read_files
from plans.usage.literals import inserted
from plans.usage.log_prefix import prefix_pattern
from plans.usage.logs import LogReader
from plans.usage.model import Actor, Executed, Origin, Values
from plans.usage.paths import Given, read_paths
from plans.usage.search_paths import SessionPaths, path_of
from plans.usage.templates import looks_like_sql, with_parameters

ORDERS, ITEMS = TableName("public", "orders"), TableName("public", "items")


def table(name: TableName, *columns: str) -> Table:
    held = [Column(name=one, type="text", is_portable=True) for one in ("id", *columns)]
    return Table(name=name, kind="r", columns=tuple(held), primary_key=("id",))


SCOPE = Scope.of(
    Catalog(
        server_version=180000,
        database="shop",
        schemas=("public",),
        tables={ORDERS: table(ORDERS, "channel"), ITEMS: table(ITEMS)},
    )
)

SOURCES = {
    "a.js": (
        '// it\'s talk\nconst q = "SELECT id " +\n  "FROM orders";\n'
        "const t = `UPDATE orders SET channel = ${c}\n WHERE id = 1`;\n"
        "log('Select one from these');"
    ),
    "b.rb": "x = <<~SQL\n  DELETE FROM items\nSQL\n",
    "c.py": (
        'Q = f"SELECT * FROM {name}"\nx = (\n    "INSERT INTO items (id)"\n    " VALUES (%s)")\n'
    ),
    "d.go": "var q = `select *\n from orders`",
    "e.java": 'String q = """\n    SELECT 1 FROM orders\n    """;',
    "f.sql": "SELECT 1;\nSELECT 2;",
    "g.txt": "SELECT 1 FROM orders",
}


def test_sql_is_found_in_code_of_many_languages_with_its_line(tmp_path: Path) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/x.js").write_text('q = "SELECT 1 FROM theirs"')
    found = [
        (Path(one.file).name, one.line, " ".join(one.text.split()))
        for one in read_files([tmp_path])
    ]
    assert found == [
        ("a.js", 2, "SELECT id FROM orders"),
        ("a.js", 4, "UPDATE orders SET channel = $1 WHERE id = 1"),
        ("b.rb", 2, "DELETE FROM items"),
        ("c.py", 1, "SELECT * FROM $1"),
        ("c.py", 3, "INSERT INTO items (id) VALUES (%s)"),
        ("d.go", 1, "select * from orders"),
        ("e.java", 1, "SELECT 1 FROM orders"),
        ("f.sql", 1, "SELECT 1; SELECT 2;"),
    ]


def test_a_file_that_is_named_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text(SOURCES["g.txt"])
    assert [one.text for one in read_files([tmp_path / "g.txt"])] == ["SELECT 1 FROM orders"]


def test_a_dump_is_skipped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plans.usage.files.FILE_BYTES_MAX", 10)
    (tmp_path / "dump.sql").write_text("SELECT 1 FROM orders")
    said: list[str] = []
    assert list(read_files([tmp_path], lambda file, _: said.append(file))) == []
    assert said == [str(tmp_path / "dump.sql")]


@pytest.mark.parametrize(
    "text", ["Select a file from the list", "update your settings", "with love"]
)
def test_talk_is_no_sql(text: str) -> None:
    assert not looks_like_sql(text)


def test_only_templates_are_filled_in() -> None:
    assert with_parameters("SELECT '{}' FROM {} WHERE a = @b AND c = %d AND d[1:2] = '@x'") == (
        "SELECT '{}' FROM $1 WHERE a = $2 AND c = $3 AND d[1:2] = '@x'"
    )
    assert with_parameters("a = $id AND b = $o->c->d") == "a = $1 AND b = $2"
    for left_alone in ("DO $body$BEGIN END$body$", "DO $$begin end$$", "a = $1", "'$x'"):
        assert with_parameters(left_alone) == left_alone


def test_quotes_of_code_do_not_swallow_what_follows() -> None:
    found = [
        one.text for one in code_strings("a = 'it\\'s'; b = \"x\"; c = r#\"y\"#;\n# don't\nd = 'z'")
    ]
    assert found == ["it's", "x", "y", "z"]


def test_inserted_values_are_constants_or_unknown() -> None:
    (one,) = inserted("INSERT INTO s.t (a, b, c) VALUES ('web', $1, true), (now(), $2, 5)", ("p",))
    assert (one.relation, one.columns) == (("s", "t"), ("a", "b", "c"))
    assert one.rows == (("web", "p", "t"), (None, None, "5"))


CSV = (
    '2026-01-01 00:00:01.000 UTC,"{user}","{db}",7,"h:1",s1.1,{n},"INSERT",2026-01-01 00:00:00 UTC,'
    '{vxid},0,LOG,00000,"{message}",{detail},,,,,,,,"","client backend",,0\n'
)


def csv(
    message: str, *, vxid: str = "3/7", detail: str = "", user: str = "crm_api", db: str = "shop"
) -> str:
    escaped = message.replace('"', '""')
    quoted = f'"{detail}"' if detail else ""
    return CSV.format(user=user, db=db, n=1, vxid=vxid, message=escaped, detail=quoted)


def read(path: Path, text: str, prefix: str | None = None) -> tuple[list[Executed], LogReader]:
    path.write_text(text)
    reader = LogReader("shop", prefix)
    return list(reader.read(path)), reader


def test_a_csv_log_tells_role_transaction_and_parameters(tmp_path: Path) -> None:
    records = [
        'cut off",,,,\n',
        csv(
            "execute <unnamed>: INSERT INTO orders (channel)\nVALUES ($1)",
            detail="parameters: $1 = 'it''s'",
        ),
        csv("statement: SELECT 1", db="other"),
        csv('duration: 1.5 ms  statement: SELECT "id" FROM orders', vxid="3/0"),
        csv("checkpoint starting: time"),
        csv("statement: SELECT 9")[:-80],
    ]
    found, reader = read(tmp_path / "x.csv", "".join(records))
    assert [one.text for one in found] == [
        "INSERT INTO orders (channel)\nVALUES ($1)",
        'SELECT "id" FROM orders',
    ]
    assert found[0].parameters == ("it's",)
    assert found[0].actor == Actor("crm_api")
    assert [one.transaction is None for one in found] == [False, True]
    assert reader.broken == 2


def test_a_json_log_tells_the_same_compressed_too(tmp_path: Path) -> None:
    record = {"user": "crm_api", "dbname": "shop", "pid": 7, "session_id": "s1", "vxid": "3/7",
              "timestamp": "2026-01-01 00:00:01.000 UTC", "error_severity": "LOG",
              "message": "statement: DELETE FROM items"}  # fmt: skip
    plan = {**record, "message": 'duration: 1 ms  plan:\n{"Query Text": "SELECT 1 FROM items"}'}
    with gzip.open(tmp_path / "x.json.gz", "wt") as file:
        file.write(f"{json.dumps(record)}\n{json.dumps(plan)}\n{{cut off\n")
    reader = LogReader("shop")
    found = list(reader.read(tmp_path / "x.json.gz"))
    assert [one.text for one in found] == ["DELETE FROM items", "SELECT 1 FROM items"]
    assert found[0].transaction == found[1].transaction
    assert reader.broken == 1


PLAIN = """\
cut off
2026-01-01 00:00:01.000 UTC [7] crm_api@shop LOG:  statement: BEGIN
2026-01-01 00:00:01.000 UTC [7] crm_api@shop LOG:  statement: UPDATE orders
\tSET channel = 'web'
2026-01-01 00:00:02.000 UTC [8] LOG:  checkpoint complete: LOG:  no
2026-01-01 00:00:02.000 UTC [7] crm_api@shop ERROR:  no such thing
2026-01-01 00:00:02.000 UTC [7] crm_api@shop STATEMENT:  SELECT thing
2026-01-01 00:00:02.000 UTC [7] crm_api@shop LOG:  statement: COMMIT
2026-01-01 00:00:03.000 UTC [7] crm_api@shop LOG:  duration: 3 ms  plan:
\tQuery Text: SELECT 1
\tFROM items
\tSeq Scan on items  (cost=0.00..1.00 rows=1 width=4)
"""


@pytest.mark.parametrize("prefix", ["%m [%p] %q%u@%d ", None, "%t %a "])
def test_a_plain_log_is_read_by_its_prefix_or_by_what_is_usual(
    tmp_path: Path, prefix: str | None
) -> None:
    found, reader = read(tmp_path / "x.log", PLAIN, prefix)
    assert [one.text for one in found] == [
        "BEGIN", "UPDATE orders\nSET channel = 'web'", "COMMIT", "SELECT 1\nFROM items",
    ]  # fmt: skip
    assert {one.actor.role for one in found} == {"crm_api"}
    assert [one.transaction is None for one in found] == [False, False, True, True]
    assert reader.broken == 1


def test_every_escape_of_log_line_prefix_has_a_pattern() -> None:
    pattern = prefix_pattern("%t [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h %v %c ")
    match = pattern.match(
        "2026-01-01 00:00:01 UTC [7]: [3-1] user=me,db=shop,app=psql -x,client=1.2.3.4 3/7 6a.7b"
        " LOG:  x"
    )
    assert match is not None
    found = match.groupdict()
    assert (found["user"], found["dbname"], found["vxid"], found["session_id"]) == (
        "me", "shop", "3/7", "6a.7b",
    )  # fmt: skip


def test_a_statement_is_read_once_and_its_calls_are_counted() -> None:
    collector = Collector(SCOPE)
    texts = ["UPDATE orders SET channel = 'a'", "UPDATE orders SET channel = 'b'"]
    collector.add("logs", [Executed(text=text, place="x", actor=Actor("a")) for text in texts])
    (used,) = collector.usage([Origin(name="logs")]).used
    assert used.statement.writes == {ORDERS}
    assert used.calls == 2


def test_tables_written_in_one_transaction_and_superusers_left_out() -> None:
    collector = Collector(SCOPE, ignored=frozenset({"root"}))
    for role, transaction in (("a", "1"), ("root", "2"), ("root", "3")):
        collector.add("logs", [
            Executed(text=text, place="x", actor=Actor(role), transaction=transaction)
            for text in ("DELETE FROM items", "DELETE FROM orders")
        ])  # fmt: skip
    assert collector.usage([]).together == {(ITEMS, ORDERS): 1}
    assert collector.seen_ignored == {"root"}


def test_values_that_statistics_have_lost_are_known_from_another_origin() -> None:
    known = Executed(text="INSERT INTO orders (id, channel) VALUES ('1', 'web')", place="x")
    lost = Executed(text="INSERT INTO orders (id, channel) VALUES ($1, $2)", place="y")
    more = Executed(text="INSERT INTO orders (channel) SELECT id FROM items", place="y")
    key = (ORDERS, "channel", Actor())
    for statistics, others in (([lost], False), ([lost, more], True)):
        collector = Collector(SCOPE)
        collector.add("statistics", statistics, is_normalized=True)
        collector.add("logs", [known])
        assert collector.usage([]).inserted[key] == Values(frozenset({"web"}), others)


def test_code_is_the_service_s_that_the_nearest_part_of_its_path_names(tmp_path: Path) -> None:
    for name in ("crm/shop_jobs.py", "crm/x.py", "both.py"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('q = "SELECT id FROM orders"')
    collector = Collector(SCOPE)
    origins = read_paths(
        [Given(tmp_path / "src"), Given(tmp_path / "src/both.py", "mes")],
        collector,
        LogReader("shop"),
        lambda part: next((name for name in ("crm", "shop") if name in part), None),
    )
    actors = {one.actor.service for one in collector.usage(origins).used}
    assert actors == {"", "crm", "shop", "mes"}
    assert [origin.days for origin in origins] == [None]


def test_values_that_are_put_in_leave_a_hole_in_any_language() -> None:
    def text(source: str) -> list[str]:
        return [one.text for one in code_strings(source)]

    assert text('q("SELECT a FROM b WHERE id = " + id);\nf("x");') == [
        "SELECT a FROM b WHERE id = {}", "x",
    ]  # fmt: skip
    assert text('"FROM b WHERE id = " + o.getId() + " AND c = 1"') == [
        "FROM b WHERE id = {} AND c = 1"
    ]
    assert text("$q = 'FROM b WHERE n = '.$n; $r = 'y';") == ["FROM b WHERE n = {}", "y"]
    assert text("'FROM b WHERE n = ' . $n . ' LIMIT 1'") == ["FROM b WHERE n = {} LIMIT 1"]
    assert text('"%s".format(x); "y".toString() + "z"; f("a", b, "c")') == [
        "%s",
        "y",
        "z",
        "a",
        "c",
    ]
    assert text('{"a": 1 + b, "c": "d"}') == ["a", "c", "d"]


def test_a_session_keeps_the_search_path_that_it_has_set() -> None:
    paths = SessionPaths()
    assert paths.after("a", "SET search_path TO Shop, 'Sales Dept'") is None
    assert paths.after("b", "SELECT 1") is None
    assert paths.after("a", "SET LOCAL search_path = crm") == ("shop", "Sales Dept")
    assert paths.after("a", "RESET search_path;") == ("shop", "Sales Dept")
    assert paths.after("a", "set session search_path = crm;") is None
    assert paths.after("a", "SET search_path = DEFAULT") == ("crm",)
    assert paths.after("a", "SELECT 1") is None


def test_the_narrowest_search_path_counts_and_a_role_s_own_schema_is_first() -> None:
    def of(role: str, *own: str) -> tuple[str, ...] | None:
        one = Executed(text="", place="log:1", actor=Actor(role), search_path=own or None)
        return path_of(one, {"api": ("x",), "": ("db",)} if role != "shop" else {}, ("crm", "shop"))

    assert of("api", "told") == ("told",)
    assert of("api") == ("x",)
    assert of("crm") == ("db",)
    assert of("shop") == ("shop", "crm", "shop")
    assert path_of(Executed(text="", place="code:1"), {}, ("crm",)) is None


def test_a_log_tells_under_which_path_a_session_s_statements_run(tmp_path: Path) -> None:
    log = tmp_path / "pg.json"
    record = {"error_severity": "LOG", "dbname": "shop", "user": "api"}
    said = [("a", "SET search_path = crm"), ("b", "SELECT 1"), ("a", "SELECT 2")]
    lines = [{**record, "session_id": s, "message": f"statement: {text}"} for s, text in said]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [one.search_path for one in LogReader("shop").read(log)] == [None, None, ("crm",)]
