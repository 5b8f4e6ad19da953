"""log_line_prefix as a pattern: where the user, the session and the transaction stand."""

from __future__ import annotations

import re
from typing import Final

# The manual, 20.8.3.
_ESCAPES: Final = {
    "a": r".*?", "u": r"(?P<user>[^@,|]*?)", "d": r"(?P<dbname>[^@,|]*?)",
    "r": r"\S*?", "h": r"\S*?", "L": r"\S*?", "b": r"[\w ]*?",
    "p": r"(?P<pid>\d+)", "P": r"\d*",
    "t": r"(?P<timestamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+)",
    "m": r"(?P<timestamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \S+)",
    "n": r"(?P<timestamp>\d+\.\d+)", "i": r"[\w ]*?", "e": r"\w{5}",
    "c": r"(?P<session_id>[\da-f]+\.[\da-f]+)", "l": r"\d+",
    "s": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+", "v": r"(?P<vxid>[-\d]*/?\d*)", "x": r"\d*",
    "Q": r"-?\d*", "%": r"%",
}  # fmt: skip
_PART = re.compile(r"%(?P<pad>-?\d+)?(?P<escape>[a-zA-Z%])")
_SEVERITY: Final = (
    r"(?P<error_severity>DEBUG[1-5]?|INFO|NOTICE|WARNING|ERROR|LOG|FATAL|PANIC|DETAIL|HINT|QUERY"
    r"|CONTEXT|STATEMENT|LOCATION):  "
)
# Without the server's setting: time, [process], and user@database or user=…,db=… if there.
_USUAL: Final = (
    r"(?P<timestamp>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? \S+)"
    r"[^\[\n]{0,40}\[(?P<pid>\d+)\](?:\s*:?\s*\[[-\d]*\])?:?\s*"
    r"(?:(?:user=)?(?P<user>[\w.$-]*)(?:@|,\s*db=)(?P<dbname>[\w.$-]*)[^\n]{0,80}?)?\s*"
)


def prefix_pattern(prefix: str | None) -> re.Pattern[str]:
    """What a record begins with, up to its message; None is read as what is usual."""
    return re.compile((_USUAL if not prefix else _of(prefix)) + _SEVERITY)


def _of(prefix: str) -> str:
    """The pattern of a setting; what stands behind %q is missing in background processes."""
    parts: list[str] = []
    seen: set[str] = set()
    place, optional = 0, False
    for match in _PART.finditer(prefix):
        parts.append(re.escape(prefix[place : match.start()]))
        place = match.end()
        escape = match["escape"]
        if escape == "q" and not optional:
            optional = True
            parts.append("(?:")
        elif escape in _ESCAPES:
            pattern = _ESCAPES[escape]
            if escape in seen:  # a name may stand in a pattern once
                pattern = re.sub(r"\(\?P<\w+>", "(?:", pattern)
            seen |= {escape, *({"t", "m", "n"} if escape in "tmn" else ())}
            parts.append(rf"\s*{pattern}\s*" if match["pad"] else pattern)
    parts.append(re.escape(prefix[place:]) + (")?" if optional else ""))
    return "".join(parts)
