"""What the body of a function or a DO block holds: statements, expressions, built strings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from psycopg import sql

from plans.statements.problems import Unparsable
from plans.statements.tree import Node, constant, kind_of, nodes, parse_procedure, strings

_ATTEMPTS_MAX = 50
_NOT_A_RECORD = re.compile(r'"([^"]+?)\.[^"]*" is not a known variable')
_DYNAMIC = {
    "PLpgSQL_stmt_dynexecute": "query",
    "PLpgSQL_stmt_dynfors": "query",
    "PLpgSQL_stmt_return_query": "dynquery",
    "PLpgSQL_stmt_open": "dynquery",
    "PLpgSQL_stmt_forc": "dynquery",
}
_ASSIGNS = frozenset({3, 4, 5})  # RAW_PARSE_PLPGSQL_ASSIGN1 to 3


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a body."""

    kind: Literal["statements", "expression", "dynamic"]
    text: str


@dataclass(frozen=True, slots=True)
class Body:
    """The parts of a body, in the order in which they stand."""

    pieces: tuple[Piece, ...] = ()
    constants: Mapping[str, str] = field(default_factory=dict)  # CONSTANT variables, as SQL
    trees: tuple[Node, ...] = ()  # of a body that was parsed with its function


def language_of(fields: Mapping[str, Any]) -> str:
    """The language of a CREATE FUNCTION or DO statement."""
    for name, value in _options(fields):
        if name == "language":
            return str(value.get("String", {}).get("sval", "")).lower()
    return "sql" if "sql_body" in fields or "funcname" in fields else "plpgsql"


def setting_of(fields: Mapping[str, Any], setting: str) -> tuple[str, ...] | None:
    """The function's own setting of `setting`, as a list."""
    for name, value in _options(fields):
        match value:
            case {"VariableSetStmt": {"name": str(found), "args": args}}:
                if name == "set" and found == setting:
                    return tuple(text for arg in args if (text := constant(arg)) is not None)
            case _:
                continue
    return None


def body_of(fields: Mapping[str, Any], definition: str) -> Body:
    """The body of a CREATE FUNCTION or DO statement in SQL or PL/pgSQL.

    Raises Unparsable; also for a body in another language.
    """
    if "sql_body" in fields:
        return Body(trees=tuple(_atomic(fields["sql_body"])))
    match language_of(fields):
        case "sql":
            return Body((Piece("statements", _text(fields)),))
        case "plpgsql":
            tree = _procedure(definition, _text(fields))
            return Body(tuple(_pieces(tree)), dict(_constants(tree)))
        case other:
            raise Unparsable(f"it is written in {other}")


def _options(fields: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    for node in [*fields.get("options", []), *fields.get("args", [])]:
        if option := node.get("DefElem"):
            yield option.get("defname", ""), option.get("arg", {})


def _text(fields: Mapping[str, Any]) -> str:
    for name, value in _options(fields):
        if name == "as":
            return next(iter(strings(value.get("List", {}).get("items", []))), "")
    return ""


def _atomic(tree: Any) -> Iterator[Node]:  # noqa: ANN401 - JSON
    """The statements of BEGIN ATOMIC … END, or of RETURN."""
    if isinstance(tree, list):
        for item in tree:
            yield from _atomic(item)
    elif isinstance(tree, dict):
        kind, fields = kind_of(tree)
        match kind:
            case "List":
                yield from _atomic(fields.get("items", []))
            case "ReturnStmt":
                yield from _atomic(fields.get("returnval", {}))
            case "":
                pass
            case _:
                yield tree


def _procedure(definition: str, body: str) -> list[Node]:
    """The parser's tree of a body in PL/pgSQL.

    The parser knows no types, so a variable of a row type is a plain one to it, and its
    fields are an error.  Such a variable is declared a record then, which changes nothing
    of what the body reads.
    """
    for _ in range(_ATTEMPTS_MAX):
        try:
            return parse_procedure(definition)
        except Unparsable as problem:
            found = _NOT_A_RECORD.search(str(problem))
            if found is None:
                raise
            changed = _with_record(definition, found[1])
            if changed == definition:
                changed, body = _in_block(definition, body, found[1])
            if changed == definition:
                raise
            definition = changed
    raise Unparsable(f"it has more than {_ATTEMPTS_MAX} variables of row types")


def _with_record(definition: str, variable: str) -> str:
    name = re.escape(variable)
    declared = re.compile(
        rf'(?<![\w.%"])("?{name}"?\s+(?:CONSTANT\s+)?)(?!RECORD\b)'
        r'(?:"[^"]+"|[A-Za-z_][\w$]*)(?:\s*\.\s*(?:"[^"]+"|[\w$]+))*(?:\s*%\s*ROWTYPE)?'
        r"(?=\s*(?:;|:=|=|,|\)|DEFAULT\b|NOT\s+NULL\b))",
        re.IGNORECASE,
    )
    return declared.sub(r"\1record", definition, count=1)


def _in_block(definition: str, body: str, variable: str) -> tuple[str, str]:
    """The body inside a block that declares the variable: it hides an output of the function."""
    name = sql.Identifier(variable).as_string()
    inner = body.rstrip().removesuffix(";")
    around = f"DECLARE {name} record; BEGIN {inner}; END"
    return definition.replace(body, around) if body else definition, around


def _constants(tree: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    for kind, fields in nodes(tree):
        if kind == "PLpgSQL_var" and fields.get("isconst") and "default_val" in fields:
            yield fields["refname"], fields["default_val"]["PLpgSQL_expr"]["query"]


def _pieces(tree: Any) -> Iterator[Piece]:  # noqa: ANN401 - JSON
    """Every statement and expression of a PL/pgSQL tree."""
    for kind, fields in nodes(tree):
        if kind in _DYNAMIC and (query := fields.get(_DYNAMIC[kind])):
            yield Piece("dynamic", query["PLpgSQL_expr"]["query"])
        elif kind == "PLpgSQL_expr":
            yield _static(fields)


def _static(fields: Mapping[str, Any]) -> Piece:
    query, mode = str(fields["query"]), fields.get("parseMode", 0)
    if mode == 0:
        return Piece("statements", query)
    if mode in _ASSIGNS:
        target, _, value = _assignment(query)
        # A target with a subscript is an expression too.
        return Piece("expression", f"{target}, {value}" if "[" in target else value)
    return Piece("expression", query)


def _assignment(query: str) -> tuple[str, str, str]:
    depth, quoted = 0, False
    for position, letter in enumerate(query):
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "[(":
            depth += 1
        elif not quoted and letter in "])":
            depth -= 1
        elif not quoted and depth == 0 and letter == "=":
            return query[:position].rstrip(": \t\n"), "=", query[position + 1 :]
    return "", "", query
