"""What values of unlike types are compared as."""

from __future__ import annotations

import pytest
from psycopg import sql

from validators.common_types import common_type


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ("numeric(10,2)", "numeric(10,2)", "numeric(10,2)"),
        ("smallint", "bigint", "bigint"),
        ("integer[]", "bigint[]", "bigint[]"),
        ("numeric(10,2)", "numeric(10,1)", "number"),
        ("integer", "numeric(10,2)", "number"),
        ("real", "numeric", "number"),
        ("bigint", "double precision", "number"),
        ("real", "double precision", "double precision"),
        ("numeric(10,2)[]", "integer[]", "numeric[]"),
        ("real[]", "numeric[]", "text"),
        ("character varying(9)", "text", "text"),
        ("character(5)", "character(9)", "bpchar"),
        ("character(5)", "text", "text"),
        ("date", "timestamp(3) without time zone", "timestamp without time zone"),
        ("timestamp without time zone", "timestamp with time zone", "timestamp with time zone"),
        ("timestamp(0) with time zone", "timestamp with time zone", "timestamp with time zone"),
        ("interval day to second(3)", "interval", "interval"),
        ("interval day", "interval year", "interval"),
        ("json", "jsonb", "jsonb"),
        ("bit(3)", "bit varying(9)", "bit varying"),
        ("inet", "cidr", "inet"),
        # No type has room for all of both: what is written of them is compared.
        ("interval", "time without time zone", "text"),
        ("boolean", "integer", "text"),
        ("public.mood", "text", "text"),
        ("public.mood", "public.humour", "text"),
        ("integer", "integer[]", "text"),
    ],
)
def test_what_holds_all_values_of_both_whichever_comes_first(
    ours: str, theirs: str, words: str
) -> None:
    assert common_type(ours, theirs).words == words
    assert common_type(theirs, ours).words == words


def test_a_number_loses_no_digit_on_its_way() -> None:
    column, common = sql.Identifier("n"), common_type("real", "numeric(10,2)")
    assert common.of(column, "real").as_string() == 'trim_scale(("n")::text::numeric)'
    assert common.of(column, "numeric(10,2)").as_string() == 'trim_scale(("n")::numeric)'
