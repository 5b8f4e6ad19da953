"""Function calls: which function is meant, and whether what it does can be known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plans.statements.ledger import Ledger
from plans.statements.names import Names
from plans.statements.tree import constant, strings

# Functions that run the text of a query: the server's own, and tablefunc's.
_RUNS_QUERY = frozenset({
    "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat",
    "crosstab", "crosstab2", "crosstab3", "crosstab4",
})  # fmt: skip
# Functions whose arguments name what they read, or another database.
_MAY_READ_ANYTHING = frozenset({
    "dblink", "dblink_exec", "dblink_open", "dblink_send_query", "cursor_to_xml",
    "cursor_to_xmlschema", "table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema",
    "schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema", "database_to_xml",
    "database_to_xmlschema", "database_to_xml_and_xmlschema", "ts_rewrite", "connectby",
    "xpath_table",
})  # fmt: skip

# Their first argument names a sequence, which goes with the table that draws from it.
_OF_SEQUENCES = frozenset({"nextval", "setval", "currval"})


def read_call(
    names: Names, ledger: Ledger, fields: Mapping[str, Any], run: Callable[[str, str], None]
) -> None:
    """Take down a FuncCall; `run` reads the text of a query, with the name of who runs it."""
    parts, arguments = strings(fields["funcname"]), fields.get("args", [])
    called = names.called(parts, len(arguments))
    own = [routine for routine in called if not routine.of_extension]
    name = parts[-1]
    for routine in own:
        ledger.call(routine)
    if (
        not own
        and not _known(names, ledger, name, _first_text(arguments), run)
        and not (called or names.is_builtin(parts) or names.is_of_extension(parts))
    ):
        ledger.doubt(f"there is no function {'.'.join(parts)}({_count(len(arguments))})")


def _known(
    names: Names, ledger: Ledger, name: str, text: str | None, run: Callable[[str, str], None]
) -> bool:
    """Whether it is a function that tells by its first argument what it uses; takes that down."""
    if name in _OF_SEQUENCES and text:
        for table, column in names.drawing_from(text):
            ledger.read(table, column)
    elif name in _RUNS_QUERY and text is not None:
        run(text, f"{name}()")
    elif name in _RUNS_QUERY:
        ledger.doubt(f"{name}() runs a query that isn't in the text")
    elif name in _MAY_READ_ANYTHING:
        ledger.doubt(f"{name}() may read anything")
    else:
        return False
    return True


def _first_text(arguments: Sequence[Any]) -> str | None:
    """The first argument, if it is a constant; what names a sequence may be cast to regclass."""
    match arguments:
        case [{"TypeCast": {"arg": arg, "typeName": {"names": names}}}, *_] if strings(names)[
            -1:
        ] == ["regclass"]:
            return constant(arg)
        case [first, *_]:
            return constant(first)
        case _:
            return None


def _count(arguments: int) -> str:
    return "1 argument" if arguments == 1 else f"{arguments} arguments"
