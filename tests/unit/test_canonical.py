"""Which cast a value gets before its text is compared."""

from __future__ import annotations

import pytest
from psycopg import sql

from validators.canonical import Hashing, is_builtin, trusted, unlimited, value
from validators.fingerprint import BUCKETS_MAX, bucket_count
from validators.typed import Value


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("integer", "(x)::integer"),
        ("numeric(10,2)", "(x)::numeric(10,2)"),  # what rounding made of it is compared
        ("timestamp(3) with time zone", "(x)::timestamp(3) with time zone"),
        ("character varying(5)", "(x)::character varying"),  # a cut value must not look equal
        ("character varying(5)[]", "(x)::character varying[]"),
        ("bit(3)", "(x)::bit varying"),
        ("bit varying(3)", "(x)::bit varying"),
        ("character(5)", "(x)::bpchar::text"),
        ("character(5)[]", "(x)::bpchar[]::text[]"),
        ("bpchar", "(x)::bpchar::text"),
        ('"char"', '(x)::"char"'),
        ("public.mood", "(x)"),
        ('"My Types"."Mood"[]', "(x)"),
        ("", "(x)"),
    ],
)
def test_value(type_: str, expected: str) -> None:
    assert value(sql.SQL("x"), type_).as_string(None) == expected


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("numeric(10,2)", "numeric"),
        ("numeric(3,-2)[]", "numeric[]"),
        ("timestamp(3) without time zone", "timestamp without time zone"),
        ("character(5)", "bpchar"),
        ("bit(3)", "bit varying"),
        ("character varying(5)", "character varying"),
        ("public.short", "public.short"),
    ],
)
def test_a_type_to_search_by_cuts_nothing(type_: str, expected: str) -> None:
    assert unlimited(type_) == expected


def test_only_names_without_a_schema_mean_the_same_everywhere() -> None:
    assert is_builtin("double precision")
    assert not is_builtin("public.email")
    assert not is_builtin("")


def test_text_of_the_plan_is_left_as_it_is() -> None:
    text = "state LIKE '100%' AND tags @> '{a}'"
    assert sql.SQL("{}").format(trusted(text)).as_string(None) == text


@pytest.mark.parametrize(
    ("rows", "buckets"), [(0, 1), (511, 1), (512, 2), (1_000_000, 2048), (10**12, BUCKETS_MAX)]
)
def test_buckets_are_a_power_of_two_and_limited(rows: int, buckets: int) -> None:
    assert bucket_count(rows, 512) == buckets


def test_no_row_hash_ends_in_a_linear_step() -> None:
    """Else values that change places between rows could leave a chunk's sum as it was."""

    def hashed(*never_null: int) -> str:
        values = [
            Value(sql.Identifier(f"c{n}"), "integer", never_null=n in never_null) for n in range(3)
        ]
        return Hashing().row(values).as_string(None)

    assert hashed().startswith("hashtextextended(''")
    # Each link takes the one before for its seed: none is joined to the others by XOR.
    chain = hashed(0, 2)
    assert chain.startswith('coalesce(hashint4extended("c2", hashint4extended("c0", ')
