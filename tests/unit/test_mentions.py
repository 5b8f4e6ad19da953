from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans.schema.mentions import Mention, mentions


def names(body: str) -> set[str]:
    return {mention.name for mention in mentions(body)}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("SELECT * FROM Orders", {"orders"}),
        ('SELECT "Odd ""One""" FROM "T"', {'Odd "One"', "T"}),
        ("a -- orders\nb /* orders */ c", {"a", "b", "c"}),
        ("EXECUTE 'DELETE FROM orders WHERE x = ''it'''", {
            "execute", "delete", "orders", "x", "it",
        }),
        ("EXECUTE $q$ UPDATE orders -- not items\n $q$", {"execute", "update", "orders"}),
        ("EXECUTE $$ SELECT $a$ x $a$ $$", {"execute", "x"}),
        ("SELECT '-- orders' || items", {"items"}),
        ("SELECT 1e5, $1, übergrößen", {"e5", "übergrößen"}),
        ("nextval('public.\"Order Numbers\"'::regclass)", {
            "nextval", "public", "Order Numbers", "regclass",
        }),
        ("x'unterminated", {"x", "unterminated"}),
    ],
)  # fmt: skip
def test_words(body: str, expected: set[str]) -> None:
    assert names(body) == expected


def test_qualified_names_and_calls_are_told_apart() -> None:
    found = mentions('SELECT public.f(x), a . "B" FROM crm . orders; f (1)')
    assert Mention("f", "public", call=True) in found
    assert Mention("B", "a") in found
    assert Mention("orders", "crm") in found
    assert Mention("f", None, call=True) in found
    assert Mention("x") in found


@given(st.text())
def test_any_text_is_read_to_its_end(body: str) -> None:
    assert Mention("last_word") in mentions(body.replace("$", "") + "\n*/'\"' last_word ") or any(
        mark in body for mark in ("'", '"', "/*", "--")
    )


def test_reserved_words_are_names_only_in_quotes_behind_a_dot_or_alone() -> None:
    assert not names("SELECT a FROM b ORDER BY c; RETURN NULL") & {"order", "null"}
    assert "order" in names('SELECT a FROM "order"')
    assert "order" in names("SELECT a FROM sales.order")
    assert "order" in names("EXECUTE format('SELECT a FROM %I', 'order')")
    assert "order" in names("order")  # a trigger's argument
    assert "order" not in names("EXECUTE 'SELECT a FROM b ORDER BY 1'")
