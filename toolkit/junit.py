"""JUnit XML of a validation: a test case for each table and each rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from validators.causes import CAUSES
from validators.results import Difference, TableResult
from validators.rules.rule import RuleResult

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


def write_junit(
    results: Sequence[TableResult], path: Path, *, rules: Sequence[RuleResult] = ()
) -> None:
    """Write the results; a difference is a failure, what could not be compared an error."""
    suites = ElementTree.Element("testsuites", name="dbsplit validate")
    _add_suite(suites, "tables", [_case_of_table(one) for one in results])
    if rules:
        _add_suite(suites, "rules", [_case_of_rule(one) for one in rules])
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)


def _add_suite(
    suites: ElementTree.Element, name: str, cases: Sequence[ElementTree.Element]
) -> None:
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        name=name,
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
    )
    suite.extend(cases)


def _case_of_table(one: TableResult) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        classname=_text(one.service),
        name=_text(str(one.table)),
        time=f"{one.elapsed_s:.3f}",
    )
    if one.state == "different":
        said = f"{one.missing} missing, {one.extra} extra, {one.different} different"
        failure = ElementTree.SubElement(case, "failure", message=said, type="RowsDiffer")
        lines = [one.route, *map(difference_text, one.examples)]
        failure.text = _text("\n".join(lines))
    elif one.state == "unverified":
        reason = one.reason or "could not be compared"
        ElementTree.SubElement(case, "error", message=_text(reason), type="Unverified")
    return case


def _case_of_rule(one: RuleResult) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        classname=_text(f"{one.service}.rules.{one.side}"),
        name=_text(one.rule),
        time=f"{one.elapsed_s:.3f}",
    )
    if one.outcome == "failed" and not one.counts:
        said = "\n".join([f"warning: {one.unexpected} rows break it", *one.shown])
        ElementTree.SubElement(case, "system-out").text = _text(said)
    elif one.outcome == "failed":
        said = f"{one.unexpected} rows break it"
        failure = ElementTree.SubElement(case, "failure", message=said, type="RuleBroken")
        failure.text = _text("\n".join(one.shown))
    elif one.outcome == "unverified":
        reason = one.reason or "could not be checked"
        ElementTree.SubElement(case, "error", message=_text(reason), type="Unverified")
    return case


def difference_text(one: Difference) -> str:
    """A difference in a line."""
    key = ", ".join("NULL" if part is None else part for part in one.key) or "no key"
    columns = one.told("where it leads", "where it follows")
    return f"({key}) {one.how}{columns} [{CAUSES[one.cause]}]"


def _text(text: str) -> str:
    return _NO_XML.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
