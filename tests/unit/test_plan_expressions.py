"""Expressions of a plan: what is one, what it reads, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans.expressions import quoted, read_expression


@pytest.mark.parametrize(
    ("text", "reads", "plain"),
    [
        ("id", {"id"}, "id"),
        ("Id", {"id"}, "id"),
        ("(id)", {"id"}, "id"),
        ('"Odd ""Name"', {'Odd "Name'}, 'Odd "Name'),
        ("'crm'", set(), None),
        ("lower(email) || ' ' || name", {"email", "name"}, None),
        ("CASE status WHEN 'new' THEN at ELSE other END", {"status", "at", "other"}, None),
        ("state IN ('a', 'b') AND NOT gone", {"state", "gone"}, None),
        ("status::text::orders_state", {"status"}, None),
        ("(size).x", {"size"}, None),
        ("tags[1]", {"tags"}, None),
        ("extract(year from at)", {"at"}, None),
        ("coalesce(a, b) -- why\n + c", {"a", "b", "c"}, None),
        ("'now' || a", {"a"}, None),
        ("shop.rank(a)", {"a"}, None),
    ],
)
def test_what_an_expression_reads(text: str, reads: set[str], plain: str | None) -> None:
    expression = read_expression(text)
    assert expression.problems == ()
    assert expression.reads == reads
    assert expression.plain == plain


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "isn't one SQL expression"),
        ("a, b", "isn't one SQL expression"),
        ("a AS b", "isn't one SQL expression"),
        ("a b", "isn't one SQL expression"),
        ("a FROM b", "isn't one SQL expression"),
        ("DISTINCT a", "isn't one SQL expression"),
        ("a LIMIT 1", "isn't one SQL expression"),
        ("a UNION SELECT b", "isn't one SQL expression"),
        ("a INTO b", "isn't one SQL expression"),
        ("a; SELECT b", "isn't one SQL expression"),
        ("a; b", 'syntax error at or near "b" at character 4'),
        ("a) + (b", 'syntax error at or near ")" at character 2'),
        ("a) FROM t; DROP TABLE t; SELECT (a", 'syntax error at or near ")" at character 2'),
        ("a -- b", "syntax error at end of input at character 6"),
        ("a /* b", 'unterminated /* comment at or near "/* b" at character 3'),
        ("'a", 'unterminated quoted string at or near "\'a" at character 1'),
        ("(SELECT 1)", "a subquery reads other rows"),
        ("EXISTS (SELECT FROM t)", "a subquery reads other rows"),
        ("a IN (SELECT 1)", "a subquery reads other rows"),
        ("ARRAY(SELECT 1)", "a subquery reads other rows"),
        ("count(*)", "count() is an aggregate or window function and reads other rows"),
        ("f(a) FILTER (WHERE b)", "f() is an aggregate or window function and reads other rows"),
        ("f(a ORDER BY b)", "f() is an aggregate or window function and reads other rows"),
        ("f(a) OVER ()", "f() OVER reads other rows"),
        ("json_arrayagg(a)", "an aggregate reads other rows"),
        ("unnest(a)", "unnest() gives more than one row"),
        ("now()", "now() gives another value each time"),
        ("pg_catalog.now()", "now() gives another value each time"),
        ("NOW()", "now() gives another value each time"),
        ("current_timestamp(3)", "current_timestamp gives another value each time"),
        ("localtime", "localtime gives another value each time"),
        ("current_user", "current_user gives another value each time"),
        ("gen_random_uuid()", "gen_random_uuid() gives another value each time"),
        ("nextval('s')", "nextval() gives another value each time"),
        ("a + random()", "random() gives another value each time"),
        ("'now'::timestamptz", "'now' as a date or time gives another value each time"),
        ("date 'Today'", "'Today' as a date or time gives another value each time"),
        ("t.a", "t.a is qualified; columns of the source row stand by themselves"),
        ("t.*", "* isn't a value; name the columns"),
        ("$1", "parameters ($1) have no value here"),
        ("DEFAULT", "DEFAULT isn't an expression"),
    ],
)
def test_what_is_refused(text: str, problem: str) -> None:
    assert problem in read_expression(text).problems


@given(text=st.text("ab'\"()-/*,;$ \n", max_size=20))
def test_what_is_accepted_stays_within_its_place(text: str) -> None:
    """Beside another column, an accepted expression is still one of two."""
    expression = read_expression(text)
    if not expression.problems:
        beside = read_expression(f"ROW(({text}), other)")
        assert beside.problems == ()
        assert beside.reads == expression.reads | {"other"}


@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=15)
)
def test_a_quoted_column_is_read_back(name: str) -> None:
    assert read_expression(quoted(name)).plain == name
