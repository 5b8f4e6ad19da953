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
    ("by", "Who", None),
    ("who", "Who", None),
    ("when", "When", None),
    ("fence_point", "Fence point", "After this position no application write is in the log."),
    ("fence", "Fence", "What refuses application writes on the side that was left."),
    (
        "marker",
        "Marker",
        "Written to the log behind the last write, and awaited on the other side.",
    ),
    (
        "markers",
        "Markers",
        "Written to the log behind the last write, and awaited on the other side.",
    ),
    ("applied", "Applied positions", "How far each target had committed when it was opened."),
    (
        "applied_positions",
        "Applied positions",
        "How far each target had committed when it was opened.",
    ),
    ("pause", "Write pause", "How long nobody could write, and what for."),
    ("tables", "Tables", "What was compared, and its hashes."),
    (
        "dirty_keys",
        "Keys compared again in the pause",
        "They had changed since they were last proven equal.",
    ),
    ("sequences", "Sequences", "Set beyond everything that was issued, so no id is issued twice."),
    ("fingerprints", "Schema fingerprints", "Equal before and after: the schema stood still."),
    ("versions", "Versions", None),
    ("hash_chain", "Hash chain", "Binds this certificate to the journal and to the one before it."),
)
# Their keys are names of services and tables, which are shown as they are.
_NAMED = frozenset(
    {"applied", "applied_positions", "positions", "markers", "tables", "hashes"}
    | {"dirty_keys", "sequences", "fingerprints", "versions"}
)
_GROUPED = ("rows", "count", "bytes", "total", "changes", "keys", "missing", "extra", "different")
_PAUSE_KEYS = ("pause", "write_pause", "pause_steps", "steps")
_EPOCH_KEYS = ("_at", "_unix_s")
_EPOCH_MIN = 1_000_000_000  # an `_at` below this is not a moment of our time


def render_certificate(certificate: Mapping[str, Any]) -> str:
    """A self-contained document that shows every key of the certificate."""
    plain = {key: value for key, value in certificate.items() if not _is_nested(value)}
    nested = {key: value for key, value in certificate.items() if _is_nested(value)}
    known = [key for key, _, _ in _KNOWN if key in nested]
    ordered = known + [key for key in nested if key not in known]
    # The chain closes the document, whatever else it has learnt to say.
    ordered.sort(key=lambda key: key == "hash_chain")
    what = " ".join(str(certificate[key]) for key in ("split", "service") if key in certificate)
    raw = json.dumps(certificate, indent=2, ensure_ascii=False, default=str)
    return page(
        f"Certificate {what}".strip(),
        element("div", element("strong", f"Split {what}" if what else "dbsplit"), class_="about"),
        element("h1", "Cutover certificate"),
        _facts(plain),
        *(_section(key, nested[key]) for key in ordered),
        section(
            "The certificate itself",
            element("details", element("summary", "As JSON"), element("pre", raw), class_="raw"),
            lead="This page is a rendering of it; the JSON is what the hash chain covers.",
        ),
    )


def _section(key: str, value: object) -> Markup:
    heading, lead = next(((h, said) for k, h, said in _KNOWN if k == key), (_words(key), None))
    pause = _pause(key, value)
    if pause is None:
        return section(heading, _nested(value, key), lead=lead)
    bars = {
        name: pause_bars([pause], width=width, name=f"pause-{key}")
        for name, width in WIDTHS.items()
    }
    return section(heading, fitted(bars), pause_table([pause]), _around(value), lead=lead)


def _around(value: object) -> Markup | None:
    """What a pause says besides its steps."""
    if not isinstance(value, Mapping) or "steps" not in value:
        return None
    rest = {key: item for key, item in value.items() if key != "steps"}
    return _facts(rest) if rest else None


def _pause(key: str, value: object) -> Pause | None:
    """The steps of a pause, in any of the shapes that say them; None if it is none."""
    if key not in _PAUSE_KEYS:
        return None
    named = value.get("steps", value) if isinstance(value, Mapping) else value
    steps = _steps(named)
    if not steps:
        return None
    spent = sum(step.ms for step in steps)
    total = value.get("total_ms", spent) if isinstance(value, Mapping) else spent
    return Pause(what="pause", begin=0, total_ms=total if _is_number(total) else spent, steps=steps)


def _steps(named: object) -> list[PauseStep]:
    if isinstance(named, Mapping):
        pairs = [(str(name).removesuffix("_ms"), ms) for name, ms in named.items()]
        pairs = [(name, ms) for name, ms in pairs if name != "total"]
    elif isinstance(named, Sequence) and not isinstance(named, str):
        pairs = [
            (str(item.get("name", item.get("step"))), item.get("ms"))
            for item in named
            if isinstance(item, Mapping)
        ]
    else:
        return []
    if not all(_is_number(ms) for _, ms in pairs):
        return []
    return [PauseStep(name=name.replace("_", " "), ms=ms) for name, ms in pairs]


def _nested(value: object, key: str) -> Markup:
    """Whatever it is, as the plainest thing that shows all of it."""
    if isinstance(value, Mapping):
        return _mapping(value, key)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _sequence(value, key)
    return _scalar(key, value)


def _mapping(value: Mapping[str, Any], key: str) -> Markup:
    if not value:
        return element("p", "none", class_="muted")
    if set(value) == {"old", "new"}:
        return element("span", f"{value['old']} → {value['new']}", class_="exact")
    rows = list(value.values())
    if len(rows) > 1 and all(isinstance(row, Mapping) and row for row in rows):
        return _records([{"": name, **row} for name, row in value.items()])
    return _facts(value, are_names=key in _NAMED)


def _sequence(value: Sequence[Any], key: str) -> Markup:
    if not value:
        return element("p", "none", class_="muted")
    if all(isinstance(item, Mapping) for item in value):
        return _records(value)
    return element("ul", *(element("li", _nested(item, key)) for item in value), class_="flat")


def _records(records: Sequence[Mapping[str, Any]]) -> Markup:
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [[_nested(record.get(key), key) for key in keys] for record in records]
    numbers = [
        _words(key) for key in keys if all(_is_number(record.get(key, 0)) for record in records)
    ]
    return table([_words(key) for key in keys], rows, numbers=numbers)


def _facts(value: Mapping[str, Any], *, are_names: bool = False) -> Markup:
    named = str if are_names else _words
    pairs = [
        part
        for key, item in value.items()
        for part in (element("dt", named(key)), element("dd", _nested(item, key)))
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
    words = key.removesuffix("_ms").replace("_", " ").strip()
    acronyms = {"lsn": "LSN", "xid": "xid", "id": "id", "dsn": "DSN", "utc": "UTC"}
    told = " ".join(acronyms.get(word, word) for word in words.split(" "))
    return told[:1].upper() + told[1:]


def _is_exact(text: str) -> bool:
    """A hash, a position, an identifier: something to compare by eye, letter by letter."""
    return " " not in text and any(character.isdigit() for character in text)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, Sequence) and not isinstance(value, str)
    )
