"""`plan explain`: the list that `run` carries out, and the page with the picture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import chromium
from tests.small_shop import SmallShop, small_shop
from tests.verbs import Verbs
from toolkit.explain.stage_details import MOVE_STEPS
from toolkit.servers import Server

NASTY = '<b>&"x"</b> \'--'
TABLES = {
    "billing.invoices", "public.Order Lines", "public.Products", "public.customers",
    "public.events", "public.notes", "public.orders", "public.scratch", "public.tickets",
    "public.visits", f"public.{NASTY}",
}  # fmt: skip


def with_nasty(plan: str) -> str:
    return plan.replace("  scratch: drop", f"  ? {json.dumps(NASTY)}\n  : crm\n  scratch: drop")


@contextmanager
def nasty_shop(
    source_server: Server, target_server: Server, directory: Path
) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, directory, edit=with_nasty) as shop:
        with psycopg.connect(shop.source, autocommit=True) as source:
            source.execute(
                """CREATE TABLE "<b>&""x""</b> '--" (id int PRIMARY KEY, "<script>" text,
                order_id bigint REFERENCES orders ON DELETE CASCADE)"""
            )
            source.execute("CREATE VIEW everything AS SELECT subject, state FROM tickets, orders")
            source.execute("ANALYZE")
        yield shop


@pytest.fixture(scope="module")
def shop(
    source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SmallShop]:
    """A database that is looked at only."""
    directory = tmp_path_factory.mktemp("explained")
    with nasty_shop(source_server, target_server, directory) as shop:
        yield shop


def stage(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(dict(one) for one in result["stages"] if one["name"] == name)


def texts(result: dict[str, Any], name: str, where: str) -> list[str]:
    return [one["sql"] for one in stage(result, name)["statements"] if one["where"] == where]


@pytest.mark.long
@pytest.mark.release
def test_run_carries_out_the_stages_that_are_explained(
    source_server: Server, target_server: Server, tmp_path: Path
) -> None:
    with nasty_shop(source_server, target_server, tmp_path) as shop:
        _carries_out(shop)


def _carries_out(shop: SmallShop) -> None:
    before = shop.everything()
    told = shop.verbs.json("plan", "explain", "--sql")
    assert shop.everything() == before  # it has looked only

    said = shop.verbs("run", "--until", "ready", "--json").out.splitlines()
    events = [one for one in map(json.loads, said) if "event" in one]
    carried_out = [one["name"] for one in events if one["event"] == "stage"]
    explained = [one["name"] for one in told["stages"]]
    assert carried_out == explained[: len(carried_out)] == [
        "prepare", "copy", "stream", "validate",
    ]  # fmt: skip
    assert [one["run"] for one in told["stages"]] == [True] * 4 + [False] * 2

    copied = {one["route"]: one["rows"] for one in events if one["event"] == "copied"}
    planned = {one["what"]: one["rows"] for one in stage(told, "copy")["details"]}
    assert planned.keys() == copied.keys()
    # Of analyzed tables the planner knows how many rows there are, and of equal values how many.
    assert planned == pytest.approx(copied, rel=0.1, abs=5)
    published = {f'"{s}"."{t}"' for s, t in shop.ask(
        "source", "SELECT schemaname, tablename FROM pg_publication_tables"
        " WHERE tablename !~ '^events.20'",
    )}  # fmt: skip
    (publication,) = [s for s in texts(told, "prepare", "source") if "CREATE PUBLICATION" in s]
    listed = publication.partition(" FOR TABLE ")[2].partition(" WITH ")[0].split(", ")
    assert set(listed) >= {name.replace(NASTY, NASTY.replace('"', '""')) for name in published}

    after = shop.verbs.json("plan", "explain")
    assert {one["name"]: one["done"] for one in after["stages"]} == {
        "prepare": True, "copy": True, "stream": False,
        "validate": True, "cutover": False, "complete": False,
    }  # fmt: skip
    assert all(one["done"] for one in stage(after, "copy")["details"])

    with shop.verbs.stream(shop.source):
        moved = shop.verbs("cutover", "--yes", "--json").out.splitlines()[:-1]
        steps = [json.loads(line)["event"] for line in moved]
        assert [step for step in steps if step in MOVE_STEPS] == list(MOVE_STEPS)
        assert set(steps) <= {*MOVE_STEPS, "comparing", "compared", "certificate"}
        now = shop.verbs.json("plan", "explain")
        assert stage(now, "cutover")["done"]
        assert not stage(now, "complete")["done"]
    shop.verbs("complete", "--yes")
    shop.verbs.refused("plan", "explain", code=6, says="is completed")


def test_the_statements_are_those_that_are_run(shop: SmallShop) -> None:
    told = shop.verbs.json("plan", "explain", "--sql")
    # As a server has them that they were run on.
    for service in ("crm", "shop"):
        with psycopg.connect(shop.dsn(service)) as target:
            for text in texts(told, "prepare", service):
                in_one = re.sub(r"^(BEGIN|COMMIT);$", "", text, flags=re.MULTILINE)
                target.execute(in_one.encode())
            for text in texts(told, "copy", service):
                if not text.startswith("COPY"):
                    target.execute(text.encode())
            (tables,) = target.execute(
                "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'billing')"
            ).fetchone() or (0,)
            assert tables >= 4
            target.rollback()
    reads = [text for text in texts(told, "copy", "source") if text.startswith("COPY")]
    with psycopg.connect(shop.source) as source:
        for text in reads:
            with source.cursor().copy(text.encode()) as rows:
                list(rows)
        source.execute("CREATE SCHEMA dbsplit")
        for text in texts(told, "cutover", "source"):
            source.execute(text.encode())
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="has moved to service"):
            source.execute("DELETE FROM visits")
        source.rollback()
    assert len(reads) == len(stage(told, "copy")["details"])


def test_what_crosses_is_listed_with_what_becomes_of_it(shop: SmallShop) -> None:
    told = shop.verbs.json("plan", "explain")
    assert told["ok"]
    assert told["split"] == "small"
    found = {(one["sort"], one["name"], one["from"]["service"]): one for one in told["crosses"]}
    key = found["foreign key", f"foreign key {NASTY}_order_id_fkey", "crm"]
    assert (key["to"], key["said"]) == ({"service": "shop", "table": "public.orders"}, False)
    assert "ON DELETE CASCADE no longer happens" in key["how"]
    view = found["code", "view public.everything", "crm"]
    assert view["to"] == {"service": "shop", "table": "public.orders"}
    copy = found["read-only copy", "read-only copy crm:public.Products:reference", "shop"]
    assert copy["to"]["service"] == "crm"
    assert "/plan.yaml:" in copy["place"]
    assert {sort for sort, _, _ in found} == {
        "foreign key", "code", "read-only copy", "derived rows", "shared table",
    }  # fmt: skip
    assert {"service": "crm", "object": "view public.everything"}.items() <= next(
        one for one in told["left_out"] if "everything" in one["object"]
    ).items()
    assert any("computed" in one for one in told["not_reversible"])
    for one in told["stages"]:
        seconds = one["predicted"]["seconds"]
        assert seconds is None or 0 < seconds["low"] <= seconds["high"]
    copying = stage(told, "copy")["predicted"]
    assert copying["rows"] > 3000
    assert 0 < copying["size_bytes"] < copying["disk_bytes"]


def test_a_person_reads_it_in_order(shop: SmallShop) -> None:
    said = shop.verbs("plan", "explain").out
    heads = ["split small: 10 tables", "1. prepare", "2. copy", "3. stream", "4. validate",
             "5. cutover", "6. complete", "What crosses", "Left out", "Not reversible",
             "Not known"]  # fmt: skip
    places = [said.index(head) for head in heads]
    assert places == sorted(places)
    assert "CREATE TABLE" not in said
    with_sql = shop.verbs("plan", "explain", "--sql").out
    assert 'COPY (SELECT "id"' in with_sql
    assert "CREATE TRIGGER" in with_sql


def test_only_the_source_has_to_answer(shop: SmallShop) -> None:
    dead: dict[str, Any] = {
        f"DBSPLIT_{service}_DSN": f"postgresql://nobody:secret@127.0.0.1:1/{service}"
        for service in ("CRM", "SHOP", "BILLING")
    }
    told = shop.verbs.json("plan", "explain", **dead)
    assert [one for one in told["unknown"] if "service crm: cannot connect" in one]
    assert "secret" not in json.dumps(told)
    assert stage(told, "copy")["predicted"]["rows"] > 3000
    shop.verbs.refused(
        "plan", "explain", code=4, says="cannot connect",
        DBSPLIT_SOURCE_DSN="postgresql://127.0.0.1:1/nothing",
    )  # fmt: skip


def test_without_the_targets_variables_all_is_told_that_the_source_knows(
    shop: SmallShop, tmp_path: Path
) -> None:
    """As in CI, where nobody has the targets' DSNs; what moves anything wants them all."""
    source_only = {"DBSPLIT_SOURCE_DSN": shop.verbs.environment["DBSPLIT_SOURCE_DSN"]}
    verbs = Verbs(shop.verbs.plan, source_only)
    checked = verbs.json("plan", "check")
    unset = {one["object"]: one for one in checked["findings"] if one["code"] == "target-unset"}
    assert set(unset) == {"crm", "shop", "billing"}
    assert "DBSPLIT_CRM_DSN" in unset["crm"]["message"]
    with_them = {one["code"] for one in shop.verbs.json("plan", "check")["findings"]}
    without = {one["code"] for one in checked["findings"]}
    assert with_them - without <= {"collation-differs", "extension-absent", "role-absent"}
    unknown = verbs.json("plan", "explain")["unknown"]
    assert any("DBSPLIT_CRM_DSN is not set" in one for one in unknown)
    rendered = verbs.json("plan", "render", "-o", str(tmp_path / "schemas"))
    assert all(one["assumed"] for one in rendered["services"].values())
    for verb in ("prepare", "doctor"):
        verbs.refused(verb, code=3, says="DBSPLIT_CRM_DSN is not set", hint="")


def test_a_plan_that_is_wrong_is_refused_and_one_that_is_blocked_is_explained(
    shop: SmallShop,
) -> None:
    plan = shop.verbs.plan
    right = plan.read_text()
    plan.write_text(right.replace("  tickets: crm", "  tickest: crm"))
    shop.verbs.refused("plan", "explain", code=3, says="tickest")
    plan.write_text(right.replace("channel = 'web'", "channel = 'wab'"))
    said = shop.verbs("plan", "explain", code=3)
    assert "2. copy" in said.out
    assert "public.notes" in said.out.rpartition("blocker")[2]
    assert shop.verbs.json("plan", "explain", code=3)["ok"] is False
    plan.write_text(right)


class Reading(HTMLParser):
    """A page's elements, which have to be closed in their order, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)
        found = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links |= {found["href"] or ""} if "href" in found else set()
        self.loads |= {value or "" for name, value in attrs if name in ("src", "srcset", "action")}
        self.loads |= {tag} if tag in ("link", "iframe", "object", "img", "base") else set()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page_of(shop: SmallShop) -> Path:
    shop.verbs("plan", "explain", "--html", "split.html")
    return shop.verbs.plan.parent / "split.html"


def test_the_page_is_one_file_with_every_table_and_no_stranger_in_it(shop: SmallShop) -> None:
    shop.ask("source", "VACUUM ANALYZE")  # or autovacuum would make a table larger in between
    text = page_of(shop).read_text()
    page = Reading()
    page.feed(text)
    assert page.open == []
    assert not page.loads
    assert not re.search(r"(?<!xmlns=\")https?://", text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    assert page.links <= {f"#{one}" for one in page.ids}
    assert {word for word in page.words if word in TABLES} >= TABLES - {"public.events"}
    assert "public.events (2 partitions)" in page.words
    assert "<b>&" not in text
    assert "<script> text" not in text
    assert text.count("<script>") == 1
    again = page_of(shop).read_text()  # the same split, the same picture
    assert (
        again.partition("</svg>")[0].partition("<svg")[2]
        == (text.partition("</svg>")[0].partition("<svg")[2])
    )


@pytest.mark.long
@pytest.mark.skipif(chromium.PROGRAM is None, reason=chromium.MISSING)
def test_a_click_tells_of_a_table_and_of_what_crosses(shop: SmallShop, tmp_path: Path) -> None:
    with chromium.opened(page_of(shop), tmp_path / "profile") as page:
        tile = "[...document.querySelectorAll('.tile')].find(t => t.ariaLabel.includes({}))"
        nasty = tile.format(json.dumps(NASTY))
        page.value(f"{nasty}.focus()")
        page.press("Enter")
        told = page.value("document.querySelector('aside .chosen').innerText")
        assert f"public.{NASTY}" in told
        assert "<script>" in told
        assert "ON DELETE CASCADE" in told or "_order_id_fkey" in told
        assert page.value("document.querySelectorAll('.line.on').length") == 1
        assert page.value("getComputedStyle(document.querySelector('.line.on')).display") != "none"
        page.press("Escape")
        assert page.value("document.querySelector('aside .chosen').innerText") == ""
        assert page.value("document.querySelectorAll('.on').length") == 0

        page.value("document.querySelector('.pill.key rect').parentElement.focus()")
        page.press("Enter")
        assert "→" in page.value("document.querySelector('aside .chosen').innerText")
        assert page.value("document.querySelectorAll('.line.key.on').length") >= 1

        page.value(
            "{const i = document.querySelector('.filter input'); i.value = 'last_login';"
            " i.dispatchEvent(new Event('input'))}"
        )
        assert page.value("document.querySelectorAll('.tile.match').length") == 2
        shown = "[...document.querySelectorAll('.everything tbody tr')].filter(r => r.offsetParent)"
        assert page.value(f"{shown}.map(r => r.cells[0].innerText)") == ["public.customers"]
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.value(overflow) <= 0
        assert page.said == []
