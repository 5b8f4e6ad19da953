"""A cutover certificate's JSON as a page that an auditor can read.

The page is a rendering, the JSON is the proof: it stands whole at the end.  Keys that this
module has not heard of are shown like the others, so a newer certificate loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from toolkit.report.amounts import milliseconds, moment
from toolkit.report.markup import Markup, element
from toolkit.report.model import Pause, PauseStep
from toolkit.report.page import WIDTHS, fitted, page, section, table
from toolkit.report.pauses import pause_bars, pause_table

# In the order in which they are read: key, heading, what it says.
_KNOWN = (
    ("fence_point", "Fence point", "After this position no application write is in the log."),
    ("markers", "Markers", "Written to the log behind the last write, and awaited."),
    ("applied_positions", "Applied positions", "How far each target was when it was opened."),
    ("pause", "Write pause", "How long nobody could write, and what for."),
    ("steps", "Steps", "Every step of the move, as the journal has it."),
    ("tables", "Tables", "Compared row by row before the right to write moved."),
    ("dirty_keys", "Keys compared again in the pause", "Changed since they were proven equal."),
    ("sequences", "Sequences", "Set beyond everything that was issued: no id is issued twice."),
    ("fingerprints", "Schema fingerprints", "Equal before and after: the schema stood still."),
    ("versions", "Versions", None),
    ("journal", "Journal", "The hash of its last row, which covers every row before it."),
    ("hash_chain", "Hash chain", "Binds this certificate to the journal and the one before."),
)
_LAST = ("journal", "hash_chain")
# The steps between the first refused write and the first one that is taken again.
_IN_PAUSE = ("fence", "marker", "drain", "verify", "sequences", "way_back", "open", "switch")
# Their keys are names of services and tables, which are shown as they are.
_NAMED = frozenset(
    {"applied_positions", "back", "canary", "markers", "passed", "tables", "hashes"}
    | {"dirty_keys", "sequences", "fingerprints", "versions"}
)
_GROUPED = ("rows", "count", "bytes", "total", "changes", "keys", "missing", "extra", "different")
_FILLED_MIN = 0.7  # a table with more gaps than this is no table
_EPOCH_KEYS = ("_at", "_unix_s")
_EPOCH_MIN = 1_000_000_000  # an `_at` below this is not a moment of our time


def render_certificate(certificate: Mapping[str, Any]) -> str:
    """A self-contained document that shows every key of the certificate."""
    plain = {key: value for key, value in certificate.items() if not _is_nested(value)}
    nested = {key: value for key, value in certificate.items() if _is_nested(value)}
    known = [key for key, _, _ in _KNOWN if key in nested]
    ordered = known + [key for key in nested if key not in known]
    # The chain closes the document, whatever else it has learnt to say.
    ordered.sort(key=lambda key: key in _LAST)
    what = " ".join(str(certificate[key]) for key in ("split", "service") if key in certificate)
    raw = json.dumps(certificate, indent=2, ensure_ascii=False, default=str)
    return page(
        f"Certificate {what}".strip(),
        element("div", element("strong", f"Split {what}" if what else "dbsplit"), class_="about"),
        element("h1", "Cutover certificate"),
        _facts(plain),
        _pause(certificate),
        *(_section(key, nested[key]) for key in ordered),
        section(
            "The certificate itself",
            element("details", element("summary", "As JSON"), element("pre", raw), class_="raw"),
            lead="This page is a rendering of it; the JSON is what the hash chain covers.",
        ),
    )


def _section(key: str, value: object) -> Markup:
    heading, lead = next(((h, said) for k, h, said in _KNOWN if k == key), (_words(key), None))
    return section(heading, _nested(value, key), lead=lead)


def _pause(certificate: Mapping[str, Any]) -> Markup | None:
    """The pause as a picture, if the certificate says how long its steps took."""
    told = certificate.get("pause")
    steps = _timed(told.get("steps", told)) if isinstance(told, Mapping) else _timed(told)
    if not steps:
        journaled = {step.name: step for step in _timed(certificate.get("steps"))}
        steps = [journaled[name] for name in _IN_PAUSE if name in journaled]
    if not steps:
        return None
    spent = sum(step.ms for step in steps)
    named = told.get("total_ms") if isinstance(told, Mapping) else None
    total = certificate.get("write_pause_ms") if named is None else named
    whole = [
        Pause(
            what="pause",
            begin=0,
            total_ms=total if _is_number(total) else spent,
            steps=[PauseStep(name=step.name.replace("_", " "), ms=step.ms) for step in steps],
        )
    ]
    bars = {name: pause_bars(whole, width=width) for name, width in WIDTHS.items()}
    lead = "How long nobody could write, and what for."
    return section("Write pause", fitted(bars), pause_table(whole), lead=lead)


def _timed(steps: object) -> list[PauseStep]:
    """Names and milliseconds, from a list of steps or a mapping; what has no time is left out."""
    if isinstance(steps, Mapping):
        pairs = [(name, _ms(step)) for name, step in steps.items()]
    elif _is_list(steps):
        pairs = [(item.get("name"), _ms(item)) for item in steps if isinstance(item, Mapping)]
    else:
        return []
    return [PauseStep(name=str(name), ms=ms) for name, ms in pairs if ms is not None]


def _ms(step: object) -> float | None:
    ms = step.get("ms") if isinstance(step, Mapping) else step
    return ms if _is_number(ms) else None


def _nested(value: object, key: str) -> Markup:
    """Whatever it is, as the plainest thing that shows all of it."""
    if isinstance(value, Mapping):
        return _mapping(value, key)
    if _is_list(value):
        return _sequence(value, key)
    return _scalar(key, value)


def _mapping(value: Mapping[str, Any], key: str) -> Markup:
    if not value:
        return element("span", "none", class_="muted")
    if set(value) == {"old", "new"}:
        return element("span", f"{value['old']} → {value['new']}", class_="exact")
    rows = list(value.values())
    if len(rows) > 1 and all(isinstance(row, Mapping) for row in rows) and _is_table(rows):
        return _records([{"": name, **row} for name, row in value.items()])
    return _facts(value, are_names=key in _NAMED)


def _sequence(value: Sequence[Any], key: str) -> Markup:
    if not value:
        return element("span", "none", class_="muted")
    if all(isinstance(item, Mapping) for item in value):
        return _records(value)
    if not _is_nested(value):
        parts = [part for item in value for part in (", ", _nested(item, key))]
        return element("span", *parts[1:])
    return element("ul", *(element("li", _nested(item, key)) for item in value), class_="flat")


def _records(records: Sequence[Mapping[str, Any]]) -> Markup:
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [[_nested(record.get(key), key) for key in keys] for record in records]
    numbers = [
        _words(key) for key in keys if all(_is_number(record.get(key, 0)) for record in records)
    ]
    return table([_words(key) for key in keys], rows, numbers=numbers)


def _is_table(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the rows have about the same columns."""
    columns = {key for row in rows for key in row}
    return sum(map(len, rows)) >= _FILLED_MIN * len(columns) * len(rows) > 0


def _facts(value: Mapping[str, Any], *, are_names: bool = False) -> Markup:
    pairs = [
        part
        for key, item in value.items()
        for part in (
            element("dt", key if are_names and key != "ms" else _words(key)),
            element("dd", _nested(item, key)),
        )
    ]
    return element("dl", *pairs, class_="facts")


def _scalar(key: str, value: object) -> Markup:
    if value is None:
        return element("span", "—", class_="muted")
    if isinstance(value, bool):
        return element("span", "yes" if value else "no")
    if _is_number(value):
        return element("span", _number(key, value))
    return element("span", str(value), class_="exact" if _is_exact(str(value)) else None)


def _number(key: str, value: float) -> str:
    """Digits are grouped only where they count something; an id or a position stays as it is."""
    if key.endswith("_ms") or key == "ms":
        return milliseconds(value)
    if key.endswith(_EPOCH_KEYS) and value > _EPOCH_MIN:
        return f"{moment(value)} UTC"
    return f"{value:,}" if key.endswith(_GROUPED) else str(value)


def _words(key: str) -> str:
    if key == "ms":
        return "Took"
    words = key.removesuffix("_ms").replace("_", " ").strip()
    acronyms = {"lsn": "LSN", "xid": "xid", "id": "id", "dsn": "DSN", "utc": "UTC"}
    told = " ".join(acronyms.get(word, word) for word in words.split(" "))
    return told[:1].upper() + told[1:]


def _is_exact(text: str) -> bool:
    """A hash, a position, an identifier: something to compare by eye, letter by letter."""
    return " " not in text and any(character.isdigit() for character in text)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_nested(value: object) -> bool:
    """Whether it needs a place of its own; a list of plain values is a line."""
    if _is_list(value):
        return any(_is_nested(item) for item in value)
    return isinstance(value, Mapping)
