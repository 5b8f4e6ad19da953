"""JUnit XML of a comparison: a test case for each table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from validators.results import TableResult


def write_junit(results: Sequence[TableResult], path: Path) -> None:
    """Write the results; a difference is a failure, what could not be compared an error."""
    failures = sum(one.state == "different" for one in results)
    errors = sum(one.state == "unverified" for one in results)
    suite = ElementTree.Element(
        "testsuite",
        name="dbsplit validate",
        tests=str(len(results)),
        failures=str(failures),
        errors=str(errors),
    )
    for one in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=one.service,
            name=str(one.table),
            time=f"{one.elapsed_s:.3f}",
        )
        if one.state == "different":
            said = f"{one.missing} missing, {one.extra} extra, {one.different} different"
            ElementTree.SubElement(case, "failure", message=said).text = one.route
        elif one.state == "unverified":
            ElementTree.SubElement(case, "error", message=one.reason or "could not be compared")
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
