"""Texts of programs as SQL: whether one is a statement, and where it is filled in."""

from __future__ import annotations

import re
from itertools import count

# Upper or lower case throughout: "Select a file from the list" is talk.
_BEGINS = re.compile(
    r"""\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*\(*\s*(?:
        (?:SELECT|select)\s.*?(?:\b(?:FROM|from)\b|\() |
        (?:WITH|with)\s+(?:(?:RECURSIVE|recursive)\s+)?"?\w+"?\s*(?:\(|(?:AS|as)\b) |
        (?:INSERT\s+INTO|insert\s+into)\s | (?:DELETE\s+FROM|delete\s+from)\s |
        (?:UPDATE|update)\s+.+?\s(?:SET|set)\s | (?:MERGE\s+INTO|merge\s+into)\s |
        (?:TRUNCATE|truncate)\s+\S | (?:CALL|call)\s+[\w."]+\s*\( |
        (?:COPY|copy)\s.+?(?:FROM|TO|from|to)\s | (?:LOCK\s+TABLE|lock\s+table)\s
    )""",
    re.VERBOSE | re.DOTALL,
)

# What is left alone comes first: strings, quoted names, comments, casts, array slices.
_TOKEN = re.compile(
    r"""(?P<kept>'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$\d+|\[[^\]{}]*\])
      | (?P<value>[$\#]?\{[^{}]*\}|\{\{[^{}]*\}\}|%[-+.\d]*[dfvq]\b
          |(?<![\w@<>])@[A-Za-z_]\w*|(?<![\w$])\$[A-Za-z_]\w*(?:->\w+)*(?![\w$]))""",
    re.VERBOSE | re.DOTALL,
)


def looks_like_sql(text: str) -> bool:
    """Whether a text begins as a statement does that touches tables."""
    return _BEGINS.match(text) is not None


def with_parameters(text: str) -> str:
    """The text with a parameter ($1, $2) wherever a template puts in something.

    Known are ``{}``, ``${…}``, ``#{…}``, ``$name``, ``@name`` and C's ``%d``, outside of quotes
    and comments.  The drivers' own (``%s``, ``?``, ``:name``) are left to `plans.statements`.
    """
    numbers = count(1)

    def replaced(match: re.Match[str]) -> str:
        found = match["value"]
        # As many lines as before, so that places below stay right.
        return match["kept"] if found is None else f"${next(numbers)}" + "\n" * found.count("\n")

    return _TOKEN.sub(replaced, text)
