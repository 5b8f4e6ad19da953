"""Which service a role, a schema, a table or a file is named after."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Shorter names are within too many words: "hr" in "three".
PART_MIN = 4


def words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case: "shopOrders_2" is shop, orders, 2."""
    return tuple(word.lower() for word in _WORD.findall(name))


def service_named(name: str, services: Iterable[str]) -> str | None:
    """The one service whose words stand in `name`; None if there is none, or several.

    "shop_api" is shop's.  Of services whose names contain each other the longest counts.
    """
    services = tuple(services)
    said = words(name)
    found = [one for one in services if _stands_in(words(one), said)]
    if not found:
        plain = "".join(said)
        found = [one for one in services if len(one) >= PART_MIN and "".join(words(one)) in plain]
    longest = [
        one
        for one in found
        if not any(one != other and _stands_in(words(one), words(other)) for other in found)
    ]
    return longest[0] if len(longest) == 1 else None


def service_prefixed(name: str, services: Iterable[str]) -> str | None:
    """The service with whose words `name` begins, the longest if there are several."""
    said = words(name)
    found = [one for one in services if said[: len(words(one))] == words(one) != ()]
    return max(found, key=lambda one: (len(words(one)), one), default=None)


def _stands_in(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    length = len(part)
    return length > 0 and any(
        whole[at : at + length] == part for at in range(len(whole) - length + 1)
    )
