"""The search_path, as a setting writes it."""

from __future__ import annotations

import re

_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*?))\s*(?:,|$)')


def path_names(setting: str) -> tuple[str, ...]:
    """The schemas of a ``search_path`` setting; ``"$user"`` is left out.

    Which schema ``"$user"`` means depends on who asks, and nearly always there is none.
    """
    found = (
        quoted.replace('""', '"') if quoted else plain.lower()
        for quoted, plain in _PART.findall(setting)
    )
    return tuple(name for name in found if name and name != "$user")
