"""The report and the certificate: they are true, whole, and open anywhere."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from typing import Any

import pytest

from toolkit.report import axis
from toolkit.report.amounts import milliseconds, size, span
from toolkit.report.certificate import render_certificate
from toolkit.report.html import render_report
from toolkit.report.markup import element
from toolkit.report.model import (
    Contradiction,
    Event,
    Figures,
    IllegalTransition,
    LagSample,
    Pause,
    PauseStep,
    PhaseSpan,
    RateSample,
    Report,
    ServerInfo,
    TableRow,
)
from toolkit.report.verdict import Standing, judge

T0 = 1_772_719_321.25
PLANTED = "<script>alert('x')</script>"
SERVICES = ("crm", "shop", "orchestrator", "a service with quite a long name")


def pause(what: str, at: float, *ms: float) -> Pause:
    steps = [PauseStep(name=f"step {i}", ms=part) for i, part in enumerate(ms)]
    return Pause(what=what, begin=T0 + at, total_ms=sum(ms) + 5, steps=steps)


def sample(**changes: Any) -> Report:
    order = ["PLANNED", "COPYING", "FOLLOWING", "DRAINING", "SETTLED", "MOVED", "COMPLETED", "?"]
    begins = [0, 2, 14, 30, 30.2, 30.4, 55, 58]
    report = Report(
        split="crm-shop",
        started_at=T0,
        ended_at=T0 + 60,
        figures=Figures(
            rows=400_000,
            changes=60_000,
            acknowledged=49_812,
            missing=0,
            doubled=0,
            differences=0,
            contradictions=70,
            write_pause_ms=[405.0, 300.0],
        ),
        servers=[ServerInfo(name="source", version="PostgreSQL 18.1", role="source")],
        phases=[
            PhaseSpan(service=service, phase=phase, begin=T0 + begin, end=T0 + end)
            for service in SERVICES
            for phase, begin, end in zip(order, begins, [*begins[1:], 60], strict=True)
        ],
        lag=[
            LagSample(service=service, at=T0 + i / 4, bytes=i * i * 997 % 40_000_000)
            for service in SERVICES[:3]
            for i in range(240)
        ],
        writes=[RateSample(at=T0 + i / 2, per_s=800 + i % 7) for i in range(120)],
        pauses=[
            pause("cutover 1", 30, 12.5, 300, 0.3),
            pause("rollback", 31, 80, 220),
            pause("cutover 2", 59.9, 400),
        ],
        tables=[
            TableRow(service="shop", table="orders", kind="whole", rows=10_000, state="equal"),
            TableRow(service="crm", table=PLANTED, kind="rows", rows=7, state="equal"),
        ],
        contradictions=[
            Contradiction(
                order_id=i, shop="paid", crm=None, mes="done", resolved="SHIPPING", why=PLANTED
            )
            for i in range(70)
        ],
        contradictions_total=1203,
        illegal_transitions=[
            IllegalTransition(order_id=9, source="mes", before="closed", after="queued")
        ],
        illegal_transitions_total=1,
        events=[Event(at=T0 + 2, text="copy begins from `00000003-1`, see http://example.org")],
        next_steps=["Run `dbsplit plan propose`"],
    )
    return replace(report, **changes)


def empty() -> Report:
    figures = Figures(
        rows=0,
        changes=0,
        acknowledged=0,
        missing=None,
        doubled=None,
        differences=None,
        contradictions=0,
    )
    return Report(split="x", started_at=T0, ended_at=T0, figures=figures)


CERTIFICATE: dict[str, Any] = {
    "split": "crm-shop",
    "outcome": "moved",
    "began_at": T0,
    "by": {"user": "dba"},
    "fence_point": {"lsn": "0/5A3F2C8", "system_identifier": 7478912378123781},
    "markers": [{"service": "shop", "marker": "9d0f7a1e", "lsn": "0/5A3F2C8"}],
    "applied_positions": {"order_hub": "0/5A3F3A0"},
    "pause": {"total_ms": 392.4, "steps": [{"name": "fence", "ms": 96.4}, {"name": "x", "ms": 9}]},
    "tables": [{"table": PLANTED, "rows": 12_345, "hash": "caf78cb2"}],
    "dirty_keys": {"shop": {"keys": 1204}, "crm": {"keys": 310}},
    "sequences": {"orders_id_seq": {"old": 10_241, "new": 11_241}},
    "fingerprints": {},
    "never heard of": {"deep": {"er": [1, None, {"ok": True, "list": []}]}},
    "hash_chain": {"previous": "aa11", "this": "bb22"},
}

PAGES = {
    "sample": lambda: render_report(sample()),
    "empty": lambda: render_report(empty()),
    "certificate": lambda: render_certificate(CERTIFICATE),
    "empty certificate": lambda: render_certificate({}),
}


class Checker(HTMLParser):
    """Knows which elements are open; notes what is loaded, and every place in a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.view: tuple[float, float] = (0, 0)
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.seen.append(tag)
        if tag not in {"meta", "br", "hr"}:
            self.open.append(tag)
        if "id" in named:
            self.ids.append(named["id"])
        self.loads += [f"{n}={named[n]}" for n in ("src", "href", "srcset", "data") if n in named]
        if tag == "svg":
            left, top, width, height = map(float, named["viewbox"].split())
            assert (left, top) == (0, 0)
            self.view = (width, height)
        if "svg" in self.open:
            self.check_places(tag, named)

    def check_places(self, tag: str, named: dict[str, str]) -> None:
        numbers = {k: float(v) for k, v in named.items() if re.fullmatch(r"-?[\d.]+", v)}
        right = numbers.get("x", 0) + numbers.get("width", 0)
        down = numbers.get("y", 0) + numbers.get("height", 0)
        xs = [right, *(numbers[k] for k in ("x", "x1", "x2") if k in numbers)]
        ys = [down, *(numbers[k] for k in ("y", "y1", "y2") if k in numbers)]
        if tag == "path":
            places = [float(n) for n in re.findall(r"-?[\d.]+", named["d"])]
            xs, ys = xs + places[::2], ys + places[1::2]
        width, height = self.view
        inside = all(0 <= x <= width for x in xs) and all(0 <= y <= height for y in ys)
        if not inside or numbers.get("width", 1) <= 0:
            self.outside.append(f"{tag} {named}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def checked(document: str) -> Checker:
    checker = Checker()
    checker.feed(document)
    checker.close()
    return checker


def words(document: str) -> str:
    return " ".join(" ".join(checked(document).text).split())


@pytest.fixture(params=PAGES)
def document(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]()


def test_every_element_is_closed_and_every_id_is_used_once(document: str) -> None:
    page = checked(document)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_and_nothing_runs(document: str) -> None:
    page = checked(document)
    assert page.loads == []
    assert not {"script", "link", "img", "iframe", "object", "use", "image"} & set(page.seen)
    assert "url(" not in document
    assert "@import" not in document
    assert "default-src &#x27;none&#x27;" in document


def test_pictures_stay_inside_their_frames(document: str) -> None:
    assert checked(document).outside == []


def test_a_planted_script_stays_a_name() -> None:
    for document in (render_report(sample()), render_certificate(CERTIFICATE)):
        assert "<script" not in document
        assert PLANTED in words(document)


def test_what_would_not_be_seen_is_written_as_an_escape() -> None:
    shown = element("td", "a\x00b\u202ec\n\td é", title="\x1b")
    assert shown == '<td title="\\x1b">a\\x00b\\u202ec\n\td é</td>'


def test_pictures_tell_what_they_show_to_who_does_not_see_them() -> None:
    document = render_report(sample())
    svgs = re.findall(r'<svg[^>]*role="img"[^>]*aria-labelledby="([^"]+)"', document)
    ids = checked(document).ids
    assert svgs
    assert all(name in ids for names in svgs for name in names.split())
    assert "crm: planned at 0 s, copying at 2 s, following at 14 s" in document
    assert "rollback: 305 ms (step 0 80 ms, step 1 220 ms, between the steps 5 ms)" in document


def test_a_report_is_json() -> None:
    assert json.loads(json.dumps(asdict(sample())))["pauses"][0]["steps"][0]["ms"] == 12.5


def with_figures(**changes: Any) -> Report:
    report = sample()
    return replace(report, figures=replace(report.figures, **changes))


def with_table(**changes: Any) -> Report:
    report = sample()
    return replace(report, tables=[*report.tables, replace(report.tables[0], **changes)])


def test_the_verdict_is_good_when_every_acknowledged_write_was_found_once() -> None:
    assert judge(sample()).standing is Standing.PROVEN
    assert "Every acknowledged write is there, once" in words(render_report(sample()))


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (with_figures(missing=1), "1 acknowledged write is missing"),
        (with_figures(missing=12, doubled=1), "12 acknowledged writes are missing and 1 write is"),
        (with_figures(differences=3), "3 rows differ"),
        (with_table(state="different", missing=2, different=5), "7 rows differ"),
        (with_table(state="unverified", rows=None, extra=4), "4 rows differ"),
    ],
)
def test_damage_is_the_headline(report: Report, said: str) -> None:
    verdict = judge(report)
    assert verdict.standing is Standing.BROKEN
    assert verdict.headline.startswith(said)
    document = words(render_report(report))
    assert said in document
    assert "is there, once" not in document


@pytest.mark.parametrize(
    "report",
    [
        empty(),
        with_figures(acknowledged=0),
        with_figures(missing=None),
        with_figures(doubled=None),
        with_figures(differences=None),
        with_table(state="unverified"),
        with_table(missing=None),
        sample(tables=[]),
        sample(tables=[replace(sample().tables[0], rows=0)]),
    ],
)
def test_what_was_not_looked_at_is_not_a_pass(report: Report) -> None:
    assert judge(report).standing is Standing.UNPROVEN
    assert "Not proven yet" in words(render_report(report))


def test_a_split_without_a_history_of_writes_speaks_of_rows_only() -> None:
    report = with_figures(acknowledged=None, missing=None, doubled=None)
    assert judge(report).standing is Standing.PROVEN
    assert "acknowledged" not in judge(report).headline
    assert "acknowledged to it" not in words(render_report(report))


@pytest.mark.parametrize("name", ["phases", "lag", "writes", "pauses", "tables", "events"])
def test_a_list_may_be_empty(name: str) -> None:
    page = checked(render_report(sample(**{name: []})))
    assert page.open == []
    assert page.outside == []


def test_samples_outside_the_time_of_the_report_do_not_leave_the_picture() -> None:
    early_and_late = [RateSample(at=T0 - 500, per_s=5), RateSample(at=T0 + 9_000, per_s=0)]
    report = sample(writes=early_and_late, pauses=[pause("late", 8_000, 1), pause("early", -9, 2)])
    assert checked(render_report(report)).outside == []


def test_long_listings_are_cut_and_say_so() -> None:
    document = render_report(sample())
    assert document.count(">SHIPPING<") == 50
    assert "The first 50 of 1,203 are listed." in words(document)


def test_tables_that_are_not_equal_come_first() -> None:
    document = render_report(with_table(table="broken", state="different", missing=2))
    assert document.index(">broken<") < document.index(">orders<")
    assert "2 missing" in words(document)


def test_a_pause_longer_than_promised_is_marked() -> None:
    assert 'class="doubt"' not in render_report(with_figures(write_pause_ms=[999.0]))
    assert 'class="doubt"' in render_report(with_figures(write_pause_ms=[1000.0]))


def test_a_certificate_shows_every_key_and_value() -> None:
    shown = words(render_certificate(CERTIFICATE))
    for said in (
        *("0/5A3F2C8", "7478912378123781", "order_hub", "12,345", "10241 → 11241", "96 ms"),
        *("2026-03-05 14:02:01 UTC", "Never heard of", "none", "yes", "bb22"),
    ):
        assert said in shown
    assert json.dumps(CERTIFICATE["never heard of"]["deep"]["er"][2]["list"]) in shown


@pytest.mark.parametrize(
    "certificate",
    [
        {"pause": {"fence": 96.4, "drain": 3}},
        {"pause": [{"name": "fence", "ms": 96.4}]},
        {"pause": {"total_ms": 100, "steps": {"fence": 96.4}}},
        {"write_pause_ms": 99.0, "steps": {"preflight": {"ms": 5}, "fence": {"ms": 96.4}}},
    ],
)
def test_a_certificate_draws_the_pause_that_it_tells_of(certificate: dict[str, Any]) -> None:
    document = render_certificate(certificate)
    assert "fence: 96 ms" in document
    assert "preflight: " not in document  # writers went on during it
    assert checked(document).outside == []


@pytest.mark.parametrize("told", [None, [], {}, "soon", [1, 2], {"steps": "none"}, {"a": "b"}])
@pytest.mark.parametrize("key", ["pause", "steps", "tables", "unknown"])
def test_a_certificate_of_any_shape_is_shown(key: str, told: Any) -> None:
    page = checked(render_certificate({key: told}))
    assert page.open == []
    assert page.outside == []


def test_steps_with_different_facts_are_told_one_by_one() -> None:
    gates = [{"gate": "lag", "ok": True}, {"gate": "validated", "ok": True}]
    steps = {
        "gates": {"ms": 4, "gates": gates},
        "marker": {"ms": 2, "markers": {"order_hub": "u1"}},
    }
    shown = words(render_certificate({"steps": steps}))
    for said in ("Gates", "validated", "order_hub", "u1"):
        assert said in shown


@pytest.mark.parametrize("high", [0.4, 1, 9, 10, 99.5, 100, 460, 1000, 123_456])
def test_ticks_reach_the_highest_value_and_are_few(high: float) -> None:
    for at_most in (2, 3, 6):
        ticks = axis.round_ticks(high, at_most=at_most)
        assert ticks[0] == 0
        assert ticks[-2] < high <= ticks[-1] * (1 + 1e-9)
        assert len(ticks) <= at_most + 2


def test_thinning_keeps_the_peak() -> None:
    points = [(float(i), 0.0) for i in range(10_000)]
    points[4_321] = (4_321.0, 7.0)
    thin = axis.thinned(points, buckets=100)
    assert (4_321.0, 7.0) in thin
    assert len(thin) <= 202
    assert thin == sorted(thin)


def test_a_gap_in_the_samples_is_not_joined() -> None:
    points = [(float(i), 1.0) for i in (*range(10), *range(50, 60))]
    assert [len(run) for run in axis.unbroken(points)] == [10, 10]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (span(0), "0 s"),
        (span(0.85), "850 ms"),
        (span(12.5), "12.5 s"),
        (span(200), "3 min 20 s"),
        (span(4 * 3600 + 90), "4 h 1 min"),
        (span(9 * 86_400), "9 d"),
        (milliseconds(0.2), "<1 ms"),
        (size(1000), "1000 bytes"),
        (size(1536), "1.5 kB"),
        (size(32 << 20), "32 MB"),
    ],
)
def test_amounts_read_well(told: str, said: str) -> None:
    assert told == said
