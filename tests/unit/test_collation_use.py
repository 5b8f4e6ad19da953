"""Which expressions give another value under another collation."""

from __future__ import annotations

import pytest

from plans.collation_use import Use, collation_uses


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("a < 'm'", {("a", Use.ORDER)}),
        ("a NOT BETWEEN b AND 'm'", {("a", Use.ORDER), ("b", Use.ORDER)}),
        ("(a, b) >= ('m', 'n')", {("a", Use.ORDER), ("b", Use.ORDER)}),
        ("a || b < ANY (ARRAY['m'])", {("a", Use.ORDER), ("b", Use.ORDER)}),
        ("greatest(a, 'm')", {("a", Use.ORDER)}),
        ("coalesce(nullif(a, ''), 'm') > 'm'", {("a", Use.ORDER), ("a", Use.EQUALITY)}),
        ("upper(a)", {("a", Use.CASE)}),
        ("a ILIKE 'm%'", {("a", Use.CASE)}),
        ("a SIMILAR TO 'm'", {("a", Use.CASE)}),
        ("a !~ '^[[:alpha:]]'", {("a", Use.CASE)}),
        ("regexp_replace(a, '\\w', '')", {("a", Use.CASE)}),
        ("a IN ('m', 'n')", {("a", Use.EQUALITY)}),
        ("CASE a WHEN 'm' THEN 1 END", {("a", Use.EQUALITY)}),
        ("a IS DISTINCT FROM 'm'", {("a", Use.EQUALITY)}),
        ("a LIKE 'm%'", {("a", Use.EQUALITY)}),
        ("a::varchar(3) > 'm'", {("a", Use.ORDER)}),
        ("a COLLATE \"C\" < 'm'", set()),
        ('lower(a COLLATE "C")', set()),
        ("a::int > 3", set()),
        ("length(a) > 3", set()),
        ("a IS NULL OR a || 'm' IS NOT NULL", set()),
        ("left(a, 3)", set()),
    ],
)
def test_what_an_expression_depends_on(text: str, uses: set[tuple[str, Use]]) -> None:
    assert collation_uses(text) == uses
