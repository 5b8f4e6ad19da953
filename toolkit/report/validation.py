"""The report of one validation as one HTML file: to read, to drill into, and to sign."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from plans.some import some
from toolkit.differences import Class
from toolkit.report.amounts import count, many, moment, span, time_of_day
from toolkit.report.differing import differing_section
from toolkit.report.markup import Markup, element, with_code
from toolkit.report.opening import about, figure, figure_list, must_be_zero, verdict_box
from toolkit.report.page import WIDTHS, fitted, page, section, table
from toolkit.report.spans import Span, span_picture
from toolkit.report.verdict import Standing, Verdict
from toolkit.validated import Validated
from validators.causes import CAUSES
from validators.results import TableResult
from validators.rules.rule import RuleResult

_WRITERS = {
    "applier": "the stream",
    "before": "before the stream began",
    "other": "somebody else",
    "unknown": "not told",
}
_SIGNED = ("Name", "Role", "Date", "Signature")


def render_validation(validated: Validated) -> str:
    """A self-contained document: it loads and runs nothing."""
    verdict = judge_validation(validated)
    name = validated.split
    began = moment(validated.started_at)
    style = files("toolkit.report").joinpath("validation.css").read_text(encoding="utf-8")
    lasted = span(max(validated.ended_at - validated.started_at, 0))
    return page(
        f"{name}: {verdict.headline}",
        about(name, "Validation", f"{began} UTC", lasted),
        verdict_box(verdict),
        figure_list(_figures(validated)),
        _classes(validated),
        _tables(validated),
        differing_section(validated),
        _rules(validated),
        _orphans(validated),
        _times(validated),
        section("How it was proven", element("ul", *_proof(validated), class_="prose")),
        _sign_off(verdict, is_whole=_is_whole(validated)),
        element("footer", f"Written by dbsplit for the split “{name}”. All times are UTC."),
        style=style,
    )


def judge_validation(validated: Validated) -> Verdict:
    """The verdict; damage outweighs doubt, doubt outweighs success."""
    damage = list(_damage(validated))
    doubts = list(_doubts(validated))
    if damage:
        return Verdict(Standing.BROKEN, " and ".join(damage), tuple(_advice(validated)))
    if doubts:
        return Verdict(Standing.UNPROVEN, "Not proven yet", tuple(doubts))
    rows = count(sum(one.rows for one in validated.results))
    tables = many(len(validated.results), "table", "tables")
    said = f"{rows} rows of {tables} were compared on both sides while applications wrote them."
    if not _is_whole(validated):
        more = f"The plan has {len(validated.planned)}; the others were not looked at in this run."
        return Verdict(Standing.PROVEN, "Every row of these tables is equal", (said, more))
    return Verdict(Standing.PROVEN, "Every row is there, and equal", (said,))


def _is_whole(validated: Validated) -> bool:
    """Whether all tables of the plan were compared."""
    return {one.route for one in validated.results} >= {route.id for route in validated.planned}


def _damage(validated: Validated) -> Iterator[str]:
    rows = sum(map(_differences, validated.results))
    if rows:
        yield many(rows, "row differs", "rows differ")
    broken = sum(rule.outcome == "failed" and rule.counts for rule in validated.rules)
    if broken:
        yield many(broken, "rule is broken", "rules are broken")


def _doubts(validated: Validated) -> Iterator[str]:
    if validated.scope:
        yield f"Only a part was compared: {validated.scope}. The other rows were not looked at."
    if not validated.results:
        yield "No table was compared."
    elif not any(one.rows for one in validated.results):
        yield "The comparison met no row."
    for one in validated.results:
        if one.state != "equal":
            yield f"{_name(one)} could not be compared to the end: {one.reason or one.state}."
    for rule in validated.rules:
        if rule.outcome == "unverified":
            yield f"Rule “{rule.rule}” of {rule.service} could not be checked: {rule.reason}."


def _advice(validated: Validated) -> Iterator[str]:
    differing = [_name(one) for one in validated.results if one.state == "different"]
    if differing:
        yield f"In {some(differing, 5)}; each row is told below."
        yield "Find out who wrote them, then run dbsplit validate --repair."
    yield from _doubts_beside(validated)


def _doubts_beside(validated: Validated) -> Iterator[str]:
    unverified = [_name(one) for one in validated.results if one.state == "unverified"]
    if unverified:
        yield f"Besides, {', '.join(unverified[:5])} could not be compared to the end."


def _figures(validated: Validated) -> Iterator[Markup]:
    results = validated.results
    yield must_be_zero("rows that differ", sum(map(_differences, results)))
    unverified = sum(one.state == "unverified" for one in results)
    yield must_be_zero("tables that could not be told", unverified)
    yield figure("rows compared", count(sum(one.rows for one in results)))
    yield figure("tables compared", f"{len(results)} of {len(validated.planned)}")
    if validated.rules:
        passed = sum(rule.outcome == "passed" for rule in validated.rules)
        tone = "bad" if any(rule.counts for rule in validated.rules) else "good"
        yield figure("rules kept", f"{passed} of {len(validated.rules)}", tone)
    if validated.repaired is not None:
        written = sum(validated.repaired[name] for name in ("inserted", "updated", "deleted"))
        yield figure("rows repaired before", count(written))
    yield figure("looked different while under way", count(sum(one.healed for one in results)))
    yield figure("odds that one difference escaped", f"{validated.collision_bound:.1e}")


def _classes(validated: Validated) -> Markup | None:
    classes: dict[Class, int] = {}
    for counts in validated.classes.values():
        for kind, number in counts.items():
            classes[kind] = classes.get(kind, 0) + number
    if not classes:
        return None
    most = max(classes.values())
    rows = [
        (
            _class_name(how),
            CAUSES[cause],
            _WRITERS[by],
            element(
                "span",
                element("span", count(number), class_="amount"),
                element("span", class_=f"bar {how}", style=f"width: {100 * number / most:.1f}%"),
                class_="barred",
            ),
        )
        for (how, cause, by), number in sorted(classes.items(), key=lambda one: -one[1])
    ]
    lead = "What is missing, too much or different on the side that follows, and why, as it seems."
    columns = ("Class", "Likely cause", "Row written by", "Rows")
    return section("Differences by class", table(columns, rows, kind="classes"), lead=lead)


def _class_name(how: str) -> Markup:
    return element(
        "span", element("span", class_=f"swatch {how}", aria_hidden="true"), how, class_="class"
    )


_COLUMNS = ("Service", "Table", "Kind", "Leads", "Rows", "Missing", "Extra", "Different", "Took")
_DETAILS = frozenset(_COLUMNS[2:4] + _COLUMNS[5:])  # a phone leaves them out


def _tables(validated: Validated) -> Markup:
    title = "The tables"
    if not validated.results:
        return section(title, lead="No table was compared.")
    kinds = {route.id: route.kind.value for route in validated.routes}
    ordered = sorted(validated.results, key=lambda one: one.state == "equal")
    rows = [_table_row(validated, one, kinds) for one in ordered]
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_=_kind(name, is_number=i > 3))
            for i, name in enumerate(_COLUMNS)
        ),
        element("th", "State", scope="col", class_="state"),
    )
    equal = sum(one.state == "equal" for one in ordered)
    lead = f"{equal} of {many(len(ordered), 'table', 'tables')} equal."
    drawn = element("table", element("thead", head), element("tbody", *rows), class_="coverage")
    return section(title, element("div", drawn, class_="scroll"), _left_out(validated), lead=lead)


def _kind(name: str, *, is_number: bool) -> str | None:
    kinds = ("number" if is_number else "", "detail" if name in _DETAILS else "")
    return " ".join(filter(None, kinds)) or None


def _table_row(validated: Validated, one: TableResult, kinds: dict[str, str]) -> Markup:
    name: str = str(one.table).removeprefix("public.")
    if one.route in validated.differences and _differences(one):
        name = element("a", name, href=f"#{anchor(validated, one)}")
    counts = (one.missing, one.extra, one.different)
    tone = {"equal": "good", "different": "bad", "unverified": "doubt"}[one.state]
    return element(
        "tr",
        element("td", one.service, class_="muted"),
        element("th", name, scope="row"),
        element("td", kinds.get(one.route, ""), class_="muted detail"),
        element("td", validated.leads.get(one.route, ""), class_="muted detail"),
        element("td", count(one.rows), class_="number"),
        *(element("td", count(n), class_="number detail" + ("" if n else " zero")) for n in counts),
        element("td", span(one.elapsed_s), class_="number muted detail"),
        element("td", one.state, class_=f"state {tone}"),
    )


def anchor(validated: Validated, one: TableResult) -> str:
    """Where the differing rows of a table stand."""
    return f"rows-{[result.route for result in validated.results].index(one.route)}"


def _left_out(validated: Validated) -> Markup | None:
    done = {one.route for one in validated.results}
    absent = [route for route in validated.planned if route.id not in done]
    if not absent:
        return None
    names = [f"{route.service}.{route.target.name}" for route in absent]
    return element("p", f"Not compared in this run: {some(names, 20)}.", class_="note")


def _rules(validated: Validated) -> Markup | None:
    if not validated.rules:
        return None
    ordered = sorted(validated.rules, key=lambda rule: rule.outcome == "passed")
    passed = sum(rule.outcome == "passed" for rule in ordered)
    lead = f"{passed} of {many(len(ordered), 'rule', 'rules')} kept, beside the rows being equal."
    rows = [_rule_row(rule) for rule in ordered]
    columns = ("Rule", "Where", "Table", "Outcome", "Rows that break it", "Such as")
    drawn = table(columns, rows, numbers=("Rows that break it",), kind="told")
    return section("Rules of the business", drawn, lead=lead)


def _rule_row(rule: RuleResult) -> tuple[str, ...]:
    tones = {"passed": "good", "failed": "bad" if rule.counts else "doubt", "unverified": "doubt"}
    word = "warning" if rule.outcome == "failed" and not rule.counts else rule.outcome
    outcome = element("span", word, class_=f"state {tones[rule.outcome]}")
    said = rule.reason or "; ".join(rule.shown[:3])
    where = f"{rule.service}, {rule.side}"
    return (rule.rule, where, rule.table, outcome, count(rule.unexpected), said)


def _orphans(validated: Validated) -> Markup | None:
    if not validated.orphans:
        return None
    rows = [
        (
            one.foreign_key,
            one.service,
            str(one.references),
            count(one.orphans) if one.state == "checked" else f"not checked: {one.reason}",
        )
        for one in validated.orphans
    ]
    lead = "Keys that refer to rows of another service, which no database checks any more."
    columns = ("Foreign key", "Service", "Refers to", "Orphans")
    return section("Orphans across services", table(columns, rows, numbers=("Orphans",)), lead=lead)


def _times(validated: Validated) -> Markup | None:
    spans = [
        Span(
            _name(one), one.state, validated.times[one.route].begin, validated.times[one.route].end
        )
        for one in validated.results
        if one.route in validated.times
    ]
    if not spans:
        return None
    first = min(one.begin for one in spans)
    last = max(one.end for one in spans)
    lead = (
        f"The rows are as they were between {time_of_day(first)} and {time_of_day(last)}; "
        "applications wrote meanwhile."
    )
    pictures = {name: span_picture(spans, width=width) for name, width in WIDTHS.items()}
    return section("When each table was compared", fitted(pictures), lead=lead)


def _proof(validated: Validated) -> Iterator[Markup]:
    yield _item(
        "Every row of these tables was hashed inside both databases: on the source through the "
        "plan's expressions, on the target as it stands there. Nothing was sampled."
    )
    positions = sorted({one.position for one in validated.results if one.position})
    if positions:
        yield _item(
            "Both sides were read as they were when the side that follows had exactly what the "
            f"other had committed before one position of its log: {', '.join(positions)}. So a "
            "row that differed there was different, without a second look."
        )
    if not all(one.position for one in validated.results):
        yield _item(
            "Where the hashes of a group of rows differed, its rows were looked at one by one. A"
            " row counts as different only if it stayed the same version where it leads while the"
            " other side applied everything up to that moment, and still held another row, twice."
        )
    yield _item(
        "A table that could not be read, or a row that changed too often to be compared, is "
        "“unverified”. It never counts as equal."
    )
    yield _item(
        "The odds that a difference hid behind equal hashes are at most "
        f"{validated.collision_bound:.1e}."
    )
    masked = sorted({f"{r.target.name}.{name}" for r in validated.routes for name in r.masked})
    if masked:
        yield _item(f"The plan masks {some(masked, 10)}: hashes stand for their values.")
    yield _item("All differences are in `dbsplit.difference` of the source, until the next run.")


def _item(text: str) -> Markup:
    return element("li", with_code(text))


def _sign_off(verdict: Verdict, *, is_whole: bool) -> Markup:
    """Lines to be signed on paper."""
    agreed = "agree that the services may be moved" if is_whole else "agree, for these tables only"
    said = {
        Standing.PROVEN: f"I have read this report, and {agreed}.",
        Standing.BROKEN: "I have read this report, and know that rows differ.",
        Standing.UNPROVEN: "I have read this report, and know that not all of it is proven.",
    }[verdict.standing]
    lines = [element("div", element("span", name)) for name in _SIGNED]
    return section("Signed", element("div", *lines, class_="signed"), lead=said)


def _differences(one: TableResult) -> int:
    return one.missing + one.extra + one.different


def _name(one: TableResult) -> str:
    return f"{one.service}.{str(one.table).removeprefix('public.')}"
