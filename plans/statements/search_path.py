"""How the statements of a text change the search_path for those after them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plans.statements.ledger import Ledger
from plans.statements.names import Names
from plans.statements.settings import path_names
from plans.statements.tree import Node, constant, nodes, strings

_NAME = "search_path"


class SearchPath:
    """The path of a session: SET lasts, SET LOCAL ends with the transaction."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._default = names.path
        self._session = names.path

    def set(self, fields: Mapping[str, Any], ledger: Ledger) -> None:
        """A SET or RESET statement."""
        if fields.get("kind") == "VAR_RESET_ALL":
            self._become(self._default, is_local=False)
        if fields.get("name") != _NAME:
            return
        is_local = bool(fields.get("is_local"))
        values = [constant(arg) for arg in fields.get("args", [])]
        if fields.get("kind") != "VAR_SET_VALUE":
            self._become(self._default, is_local=is_local)
        elif None in values:
            ledger.doubt("the search_path is set to a value that isn't in the text")
        else:
            path = tuple(value for value in values if value and value != "$user")
            self._become(path, is_local=is_local)

    def after_query(self, tree: Node, text: str) -> None:
        """A query may set the path with set_config(), as pg_dump does."""
        if text and "set_config" not in text.lower():
            return
        for kind, fields in nodes(tree):
            if kind != "FuncCall" or strings(fields["funcname"])[-1] != "set_config":
                continue
            match [constant(arg) for arg in fields.get("args", [])]:
                case [name, str(value), *_] if name == _NAME:
                    is_local = "true" in str(fields["args"][2:]).lower()
                    self._become(path_names(value), is_local=is_local)

    def transaction(self, fields: Mapping[str, Any]) -> None:
        """The end of a transaction ends SET LOCAL."""
        if str(fields.get("kind")).startswith(("TRANS_STMT_COMMIT", "TRANS_STMT_ROLLBACK")):
            self._names.path = self._session

    def _become(self, path: tuple[str, ...], *, is_local: bool) -> None:
        self._names.path = path
        if not is_local:
            self._session = path
