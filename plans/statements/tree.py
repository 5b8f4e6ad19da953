"""The parser's trees: JSON in which a node is ``{"Kind": {field: …}}``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pgparse  # type: ignore[import-not-found]  # it has no stubs

from plans.statements.lexing import has_chain, may_have_chain
from plans.statements.problems import Unparsable

Node = dict[str, Any]

# The parser goes down its tree on the C stack without a check: some 50,000 operators in a
# row end the process.
_CHAIN_MAX = 5_000
TOO_DEEP = "it is nested too deeply"


def parse(text: str) -> list[Node]:
    """The statements of `text`, each as a node.  Raises Unparsable."""
    _check_depth(text)
    try:
        return [entry["stmt"] for entry in pgparse.parse(text) if "stmt" in entry]
    except pgparse.PGQueryError as error:
        raise Unparsable(str(error.message)) from None
    except (RecursionError, UnicodeError, ValueError) as error:
        raise Unparsable(_cause(error)) from None


def parse_procedure(definition: str) -> list[Node]:
    """The tree of a function in PL/pgSQL, from its CREATE statement or DO block.

    Raises Unparsable.
    """
    _check_depth(definition)
    try:
        return list(pgparse.parse_pgsql(definition))
    except pgparse.PGQueryError as error:
        raise Unparsable(str(error.message)) from None
    except (RecursionError, UnicodeError, ValueError) as error:
        raise Unparsable(_cause(error)) from None


def _check_depth(text: str) -> None:
    if may_have_chain(text, _CHAIN_MAX) and has_chain(text, _CHAIN_MAX):
        raise Unparsable(TOO_DEEP)


def _cause(error: Exception) -> str:
    match error:
        case RecursionError():
            return TOO_DEEP
        case UnicodeError():
            return "it isn't text that can be encoded as UTF-8"
        case _:
            return str(error)


def kind_of(node: Node) -> tuple[str, Any]:
    """The node's kind and fields; ("", {}) for an empty node."""
    return next(iter(node.items()), ("", {}))


def nodes(tree: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - JSON
    """Every key and value of the tree, outer ones first."""
    if isinstance(tree, dict):
        for kind, node in tree.items():
            yield kind, node
            yield from nodes(node)
    elif isinstance(tree, list):
        for item in tree:
            yield from nodes(item)


def strings(parts: Sequence[Node] | None) -> list[str]:
    """The names in a list of String nodes."""
    return [str(part["String"].get("sval", "")) for part in parts or () if "String" in part]


def constant(node: Any) -> str | None:  # noqa: ANN401 - JSON
    """The text of a string constant, None for anything else."""
    match node:
        case {"A_Const": {"sval": {"sval": str(text)}}}:
            return text
        case {"A_Const": {"sval": {}}}:
            return ""
        case {"TypeCast": {"arg": arg, "typeName": {"names": names}}}:
            return constant(arg) if strings(names)[-1:] in (["text"], ["varchar"]) else None
        case _:
            return None
