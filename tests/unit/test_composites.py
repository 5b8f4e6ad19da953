"""How a target's composite type gets the attributes of the source's."""

from __future__ import annotations

import pytest

from plans.catalog import TableName
from toolkit.refresh_composites import Attributes, altered

X, Y, Z, W = ("x", "int"), ("y", "text"), ("z", "text"), ("w", "int")
TYPE = 'ALTER TYPE "public"."t" '


@pytest.mark.parametrize(
    ("theirs", "ours", "wanted"),
    [
        ((X,), (X, Y), ('ADD ATTRIBUTE "y" text',)),
        ((X, Y, Z), (X, Z), ('DROP ATTRIBUTE "y"',)),
        ((X, Y), (W, Y), ('RENAME ATTRIBUTE "x" TO "w"',)),
        (
            (X, Y),
            (X, Z, Y),
            ('DROP ATTRIBUTE "y"', 'ADD ATTRIBUTE "z" text', 'ADD ATTRIBUTE "y" text'),
        ),
        ((X, Y), (X, ("y", "int")), ('DROP ATTRIBUTE "y"', 'ADD ATTRIBUTE "y" int')),
        ((Y, X, Z), (Z, W), ('DROP ATTRIBUTE "y"', 'DROP ATTRIBUTE "x"', 'ADD ATTRIBUTE "w" int')),
    ],
)
def test_what_alters_a_type(theirs: Attributes, ours: Attributes, wanted: tuple[str, ...]) -> None:
    said = [one.removeprefix(TYPE) for one in altered(TableName("public", "t"), ours, theirs)]
    assert said == list(wanted)
