"""What the values of two columns are compared as, where the columns' types are not the same.

Nothing of either value is lost on the way: a type that is cast to has room for all that both
can hold.  Where there is no such type, the texts are compared, which show all there is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from psycopg import sql

from validators.canonical import is_builtin, text_of, trusted, unlimited, value

Form = Literal["cast", "number", "text"]

_FLOATS: Final = frozenset({"real", "double precision"})
_INTEGERS: Final = frozenset({"smallint", "integer", "bigint"})
_NUMBERS: Final = _INTEGERS | _FLOATS | {"numeric"}
_LOCAL, _ZONED = "timestamp without time zone", "timestamp with time zone"
_WIDER: Final = (
    (_INTEGERS, "bigint"),
    (_FLOATS, "double precision"),
    (frozenset({"text", "character varying", "bpchar", "name", '"char"'}), "text"),
    (frozenset({"date", _LOCAL}), _LOCAL),
    (frozenset({"date", _LOCAL, _ZONED}), _ZONED),  # what has no time zone is taken for UTC
    (frozenset({"json", "jsonb"}), "jsonb"),
    (frozenset({"inet", "cidr"}), "inet"),
    (frozenset({"macaddr", "macaddr8"}), "macaddr8"),
    (frozenset({"bit", "bit varying"}), "bit varying"),
)
"""Types, and the one that holds all of their values; the first that has both is taken."""

_FIELDS = re.compile(r"interval [a-z ]+")


@dataclass(frozen=True, slots=True)
class Common:
    """How values of two columns become comparable."""

    form: Form
    type: str  # that is cast to; '' is each its own
    """As `validators.canonical` writes types."""

    @property
    def words(self) -> str:
        """As what values are compared, for people."""
        return {"cast": self.type, "number": "number", "text": "text"}[self.form]

    @property
    def hashed_as(self) -> str:
        """The type of `of`, '' if it goes by text."""
        if self.form == "text":
            return "text"
        return unlimited(self.type) if is_builtin(self.type) else ""

    def of(self, column: sql.Identifier, own: str) -> sql.Composed:
        """The value of a column of the type `own`."""
        match self.form:
            case "cast":
                return value(column, self.type)
            case "text":
                return text_of(value(column, own))
            case "number":
                # A cast would keep 15 digits, or 6; the text has all of them.
                through = "::text" if own in _FLOATS else ""
                return sql.SQL("trim_scale(({}){}::numeric)").format(column, trusted(through))


def common_type(ours: str, theirs: str) -> Common:
    """What values of these types, as the catalog writes them, are compared as."""
    if ours == theirs:
        return Common("cast", ours)
    our_element, our_dimensions = _element(ours)
    their_element, their_dimensions = _element(theirs)
    if our_dimensions != their_dimensions or not (is_builtin(ours) and is_builtin(theirs)):
        return Common("text", "")
    both = {our_element, their_element}
    if both <= _NUMBERS and not any(both <= types for types in (_INTEGERS, _FLOATS)):
        if not our_dimensions:
            return Common("number", "numeric")
        return Common("cast", "numeric[]") if not both & _FLOATS else Common("text", "")
    if len(both) == 1:
        return Common("cast", our_element + our_dimensions)
    wider = next((wide for types, wide in _WIDER if both <= types), None)
    return Common("cast", wider + our_dimensions) if wider else Common("text", "")


def _element(type_: str) -> tuple[str, str]:
    """The type without length, scale and fields, and the brackets of an array."""
    element = unlimited(type_)
    brackets = "[]" if element.endswith("[]") else ""
    element = element.removesuffix("[]")
    return ("interval" if _FIELDS.fullmatch(element) else element), brackets
