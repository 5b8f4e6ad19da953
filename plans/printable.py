"""What users' data say, so that it can be shown: it commands no terminal, and no runner of CI.

A name or a value may hold anything, such as a terminal's escape sequences, marks that turn
the direction of writing, or a line that a runner takes for a command.  JSON needs nothing
of this: it escapes by itself.
"""

from __future__ import annotations

import re

_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\[)", re.MULTILINE)
"""What a runner of GitHub Actions takes for a command, also behind blanks; the older form
of them anywhere in a line (actions/runner, ActionCommand.TryParseV2 and TryParse)."""

_KEPT = re.compile(r"[^\n\t]+")


def printable(text: str) -> str:
    """The text in one line, with an escape for each character that is no visible one."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def visible(text: str) -> str:
    """The same of several lines; tabs stay."""
    return _KEPT.sub(lambda found: printable(found[0]), text)


def printable_lines(text: str) -> str:
    """The same of several lines, none of which is a command of a CI system; tabs stay.

    Doing it twice is doing it once.
    """
    return _COMMAND.sub(_defused, visible(text))


def _defused(found: re.Match[str]) -> str:
    return r"\x23" if found[1] is None else rf"{found[1]}\x3a"
