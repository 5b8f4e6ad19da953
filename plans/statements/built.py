"""Queries that are put together from constants: what EXECUTE runs, where that is certain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from plans.statements.tree import Node, constant, strings

_SPEC = re.compile(r"%(?:(\d+)\$)?-?\d*([sIL%])")
_LITERAL = "NULL"  # in the place of any value that is quoted as a literal
_QUOTES = frozenset({"quote_literal", "quote_nullable"})


class Built:
    """Follows an expression whose value is a query, down to literals.

    A value that goes through ``%L`` or quote_literal() can only be a literal: it changes
    nothing about which tables are named, so NULL stands for it.
    """

    def __init__(self, constants: Mapping[str, Node] | None = None) -> None:
        """`constants` are the CONSTANT variables that may stand in it."""
        self._constants = dict(constants or {})

    def query(self, node: Node) -> str | None:
        """The query, None if it depends on anything but literals."""
        if (text := constant(node)) is not None:
            return text
        match node:
            case {
                "A_Expr": {
                    "kind": "AEXPR_OP",
                    "name": [{"String": {"sval": "||"}}],
                    "lexpr": left,
                    "rexpr": right,
                }
            }:
                return self._joined([left, right])
            case {"FuncCall": {"funcname": name, "args": args}}:
                return self._called(strings(name)[-1], args)
            case {"TypeCast": {"arg": arg}}:
                return self.query(arg)
            case {"ColumnRef": {"fields": [{"String": {"sval": str(name)}}]}}:
                # Taken out while it is followed: it cannot stand in itself.
                known = self._constants.get(name)
                rest = {key: tree for key, tree in self._constants.items() if key != name}
                return Built(rest).query(known) if known else None
            case _:
                return None

    def _joined(self, nodes: Sequence[Node]) -> str | None:
        texts = [self.query(node) for node in nodes]
        known = [text for text in texts if text is not None]
        return "".join(known) if len(known) == len(texts) else None

    def _called(self, name: str, args: Sequence[Node]) -> str | None:
        if name in _QUOTES:
            return _LITERAL
        if name == "quote_ident" and (text := self.query(args[0])) is not None:
            return _identifier(text)
        if name == "format" and (template := self.query(args[0])) is not None:
            return self._formatted(template, args[1:])
        return self._joined(args) if name == "concat" else None

    def _formatted(self, template: str, args: Sequence[Node]) -> str | None:
        """What format() gives."""
        done, next_arg, end = [], 0, 0
        for spec in _SPEC.finditer(template):
            done.append(template[end : spec.start()])
            end = spec.end()
            if spec[2] == "%":
                done.append("%")
                continue
            index = int(spec[1]) - 1 if spec[1] else next_arg
            next_arg = index + 1
            value = self._value(spec[2], args[index] if 0 <= index < len(args) else None)
            if value is None:
                return None
            done.append(value)
        return "".join([*done, template[end:]])

    def _value(self, spec: str, arg: Node | None) -> str | None:
        if spec == "L":
            return _LITERAL
        text = self.query(arg) if arg else None
        return _identifier(text) if spec == "I" and text is not None else text


def _identifier(text: str) -> str:
    quoted = text.replace('"', '""')
    return f'"{quoted}"'
