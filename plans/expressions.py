"""Expressions of a plan: immutable SQL over the columns of one source row.

The same text is evaluated by the copy on the source, by the stream in the
target and by the comparison, at different times and on different servers.  It
must give the same value everywhere, so nothing may enter but the row itself.

The grammar is PostgreSQL 17's (pgparse).  Functions are judged here by name
only; `plans.check` asks the source's pg_proc about the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pgparse  # type: ignore[import-not-found]  # it has no stubs
from psycopg import sql

from plans.statements.tree import nodes

_CHANGES = "gives another value each time"
_PREFIX = "SELECT "

_VOLATILE = frozenset({
    "now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday",
    "random", "random_normal", "setseed", "nextval", "currval", "lastval", "setval",
    "gen_random_uuid", "uuidv4", "uuidv7", "uuid_generate_v1", "uuid_generate_v1mc",
    "uuid_generate_v4", "gen_random_bytes", "gen_salt", "txid_current", "txid_current_snapshot",
    "pg_current_xact_id", "pg_current_snapshot", "pg_current_wal_lsn", "pg_backend_pid",
    "inet_client_addr", "inet_server_addr", "current_setting", "set_config", "version",
    "pg_sleep", "pg_notify", "pg_advisory_lock", "pg_advisory_xact_lock", "dblink", "lo_get",
    "query_to_xml", "table_to_xml", "current_database", "current_schema", "current_schemas",
    "pg_get_expr",
})  # fmt: skip
_AGGREGATES = frozenset({
    "count", "sum", "min", "max", "avg", "array_agg", "string_agg", "json_agg", "jsonb_agg",
    "json_object_agg", "jsonb_object_agg", "bool_and", "bool_or", "every", "bit_and", "bit_or",
    "bit_xor", "any_value", "xmlagg", "range_agg", "range_intersect_agg", "stddev",
    "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp", "corr", "covar_pop",
    "covar_samp", "mode", "percentile_cont", "percentile_disc", "row_number", "rank",
    "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead", "first_value",
    "last_value", "nth_value",
})  # fmt: skip
_SET_RETURNING = frozenset({
    "unnest", "generate_series", "generate_subscripts", "regexp_matches",
    "regexp_split_to_table", "string_to_table", "json_array_elements", "jsonb_array_elements",
    "json_array_elements_text", "jsonb_array_elements_text", "json_each", "jsonb_each",
    "json_each_text", "jsonb_each_text", "json_object_keys", "jsonb_object_keys",
    "jsonb_path_query", "json_to_recordset", "jsonb_to_recordset", "json_populate_recordset",
    "jsonb_populate_recordset",
})  # fmt: skip
# 'now'::timestamp is the time at which the text is read.
_MOVING_DATES = frozenset({"now", "today", "tomorrow", "yesterday"})
_DATE_TYPES = frozenset({"date", "time", "timetz", "timestamp", "timestamptz"})

_REFUSED = {
    "SubLink": "a subquery reads other rows",
    "SelectStmt": "a subquery reads other rows",
    "GroupingFunc": "an aggregate reads other rows",
    "JsonArrayAgg": "an aggregate reads other rows",
    "JsonObjectAgg": "an aggregate reads other rows",
    "ParamRef": "parameters ($1) have no value here",
    "SetToDefault": "DEFAULT isn't an expression",
    "CurrentOfExpr": "CURRENT OF isn't an expression",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, what it reads and what is wrong with it."""

    text: str
    reads: frozenset[str] = frozenset()
    plain: str | None = None  # the column, if the expression is nothing else
    functions: frozenset[str] = frozenset()  # as written: "lower", "shop.rank_of"
    problems: tuple[str, ...] = ()


def quoted(column: str) -> str:
    """A column's name as an expression."""
    return sql.Identifier(column).as_string()


def read_expression(text: str) -> Expression:
    """Parse an expression; what is wrong with it is in its `problems`."""
    try:
        tree = _single(text)
    except pgparse.PGQueryError as error:
        # Counted from 1 in what was parsed, and at its end one beyond.
        position = max(1, min(int(error.position) - len(_PREFIX), len(text)))
        return Expression(text, problems=(f"{error.message} at character {position}",))
    if tree is None:
        return Expression(text, problems=("isn't one SQL expression",))
    found = list(nodes(tree))
    problems = [problem for kind, node in found for problem in _refused(kind, node)]
    return Expression(
        text,
        reads=frozenset(name for name in map(_column, found) if name),
        plain=_column(next(iter(tree.items()))),
        functions=frozenset(
            ".".join(_names(node["funcname"])) for kind, node in found if kind == "FuncCall"
        ),
        problems=tuple(dict.fromkeys(problems)),
    )


def _single(text: str) -> dict[str, Any] | None:
    """The expression's tree; None if the text is more, less or other than one expression.

    It is read bare and in parentheses: a comment at the end, or ``a) + (b``,
    would change the query around it.
    """
    bare = _target(pgparse.parse(f"{_PREFIX}{text}"))
    if bare is None:
        return None
    enclosed = _target(pgparse.parse(f"{_PREFIX}({text})"))
    return bare if _shape(bare) == _shape(enclosed) else None


def _target(statements: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    match statements:
        case [{"stmt": {"SelectStmt": select}}] if isinstance(select, dict):
            pass
        case _:
            return None
    if set(select) != {"targetList", "limitOption", "op"} or select["op"] != "SETOP_NONE":
        return None
    match select["targetList"]:
        case [{"ResTarget": {"val": dict() as tree, "location": int(), **rest}}] if not rest:
            return tree
        case _:
            return None


def _shape(tree: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(tree, dict):
        return {key: _shape(value) for key, value in tree.items() if key != "location"}
    return [_shape(item) for item in tree] if isinstance(tree, list) else tree


def _names(parts: Sequence[dict[str, Any]]) -> list[str]:
    return [str(part["String"]["sval"]) for part in parts if "String" in part]


def _column(node: tuple[str, Any]) -> str | None:
    match node:
        case ("ColumnRef", {"fields": [{"String": {"sval": str(name)}}]}):
            return name
        case _:
            return None


def _refused(kind: str, node: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if kind in _REFUSED:
        yield _REFUSED[kind]
    elif kind == "ColumnRef":
        yield from _refused_reference(node["fields"])
    elif kind == "FuncCall":
        yield from _refused_function(node)
    elif kind == "SQLValueFunction":
        name = str(node["op"]).removeprefix("SVFOP_").removesuffix("_N").lower()
        yield f"{name} {_CHANGES}"
    elif kind == "TypeCast":
        yield from _refused_cast(node)


def _refused_reference(fields: Sequence[dict[str, Any]]) -> Iterator[str]:
    if any("A_Star" in field for field in fields):
        yield "* isn't a value; name the columns"
    elif len(fields) > 1:
        name = ".".join(_names(fields))
        yield f"{name} is qualified; columns of the source row stand by themselves"


def _refused_function(node: dict[str, Any]) -> Iterator[str]:
    *schema, name = _names(node["funcname"])
    known = name if schema in ([], ["pg_catalog"]) else ""
    if "over" in node:
        yield f"{name}() OVER reads other rows"
    elif known in _AGGREGATES or any(part.startswith("agg_") for part in node):
        yield f"{name}() is an aggregate or window function and reads other rows"
    if known in _VOLATILE:
        yield f"{name}() {_CHANGES}"
    if known in _SET_RETURNING:
        yield f"{name}() gives more than one row"


def _refused_cast(node: dict[str, Any]) -> Iterator[str]:
    match node:
        case {"arg": {"A_Const": {"sval": {"sval": str(word)}}}, "typeName": {"names": names}}:
            if word.strip().lower() in _MOVING_DATES and _names(names)[-1] in _DATE_TYPES:
                yield f"'{word}' as a date or time {_CHANGES}"
        case _:
            return
