"""SELECT, INSERT, UPDATE, DELETE and MERGE: the relations and columns that they use.

The tree is walked level by level, as PostgreSQL's own analysis does: each query has
its relations, sees those of the queries around it, and WITH queries hide tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plans.statements import output
from plans.statements.calls import read_call
from plans.statements.entries import (
    aliased,
    derived,
    function_name,
    joined,
    of_relation,
    target_columns,
    version,
)
from plans.statements.ledger import Ledger
from plans.statements.names import Kind, Names, Relation
from plans.statements.parts import Event, Routine
from plans.statements.ranges import Level, Range, not_a_column, origins
from plans.statements.tree import Node, kind_of, strings

Fields = Mapping[str, Any]
QUERIES = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_WRITES: Mapping[str, Event] = {
    "CMD_INSERT": "insert", "CMD_UPDATE": "update", "CMD_DELETE": "delete",
}  # fmt: skip


class Queries:
    """Reads the trees of one statement into a ledger."""

    def __init__(self, names: Names, ledger: Ledger, run: Callable[[str, str], None]) -> None:
        """`run` reads a query that a function gets as an argument."""
        self._names = names
        self._ledger = ledger
        self._run = run
        self._queries: Mapping[str, Callable[[Fields, Level], tuple[str, ...] | None]] = {
            "SelectStmt": self._select,
            "InsertStmt": self._insert,
            "UpdateStmt": self._update,
            "DeleteStmt": self._delete,
            "MergeStmt": self._merge,
        }

    def query(
        self, node: Node, around: Level | None = None, *, sees: bool = True
    ) -> tuple[str, ...] | None:
        """Read one query; its output columns, None if they aren't known."""
        kind, fields = kind_of(node)
        level = Level(around, sees)
        if kind in self._queries:
            return self._queries[kind](fields, level)
        self.expression(node, level)
        return None

    def expression(self, tree: Any, level: Level) -> None:  # noqa: ANN401 - JSON
        """Read an expression, or anything that holds some."""
        if isinstance(tree, list):
            for item in tree:
                self.expression(item, level)
        elif isinstance(tree, dict):
            for kind, fields in tree.items():
                self._part(kind, fields, level)

    def _part(self, kind: str, fields: Any, level: Level) -> None:  # noqa: ANN401 - JSON
        match kind:
            case "ColumnRef":
                self._column(fields["fields"], level)
            case "SubLink":
                self.expression(fields.get("testexpr"), level)
                self.query(fields["subselect"], level)
            case "FuncCall":
                read_call(self._names, self._ledger, fields, self._run)
                self.expression({k: v for k, v in fields.items() if k != "funcname"}, level)
            case "A_Expr":
                self._called(self._names.behind_operator(strings(fields.get("name"))))
                self.expression(fields, level)
            case "TypeCast":
                named = fields.get("typeName", {}).get("names")
                self._called(self._names.behind_cast(strings(named)))
                self.expression(fields, level)
            case _ if kind in self._queries:
                self.query({kind: fields}, level)
            case _:
                self.expression(fields, level)

    def _called(self, routines: Sequence[Routine]) -> None:
        for routine in routines:
            self._ledger.call(routine)

    def _column(self, fields: Sequence[Node], level: Level) -> None:
        parts = ["*" if "A_Star" in field else field["String"]["sval"] for field in fields]
        for table, column in origins(level, parts):
            self._ledger.use(table, "read", {column} if column else None)
        if whole := not_a_column(level, parts):
            # row.function is a call with the row.
            for routine in self._names.called([parts[-1]], 1):
                self._ledger.call(routine)
                for table in whole.tables:
                    self._ledger.use(table, "read", None)

    def _select(self, fields: Fields, level: Level) -> tuple[str, ...] | None:
        self._with(fields.get("withClause"), level)
        if fields.get("op", "SETOP_NONE") != "SETOP_NONE":
            columns = self.query({"SelectStmt": fields["larg"]}, level)
            self.query({"SelectStmt": fields["rarg"]}, level)
        else:
            for item in fields.get("fromClause", []):
                level.ranges.extend(self._from(item, level))
            self.expression(fields.get("targetList"), level)
            columns = output.output_columns(fields.get("targetList", []), level)
        self._sorted(fields.get("sortClause", []), columns or (), level)
        seen = {"withClause", "larg", "rarg", "fromClause", "targetList", "sortClause",
                "intoClause", "lockingClause"}  # fmt: skip
        self.expression({key: part for key, part in fields.items() if key not in seen}, level)
        if "valuesLists" in fields:
            count = len(fields["valuesLists"][0].get("List", {}).get("items", []))
            return tuple(f"column{number}" for number in range(1, count + 1))
        return columns

    def _sorted(self, clause: Sequence[Node], columns: Sequence[str], level: Level) -> None:
        """ORDER BY means an output column before one of a table."""
        for item in clause:
            match item:
                case {"SortBy": {"node": {"ColumnRef": {"fields": [{"String": {"sval": name}}]}}}}:
                    if name not in columns:
                        self.expression(item, level)
                case _:
                    self.expression(item, level)

    def _with(self, clause: Fields | None, level: Level) -> None:
        entries = [entry["CommonTableExpr"] for entry in (clause or {}).get("ctes", [])]
        if clause and clause.get("recursive"):
            for entry in entries:
                level.ctes[entry["ctename"]] = aliased(entry.get("aliascolnames"), None)
        for entry in entries:
            columns = self.query(entry["ctequery"], level)
            level.ctes[entry["ctename"]] = aliased(entry.get("aliascolnames"), columns)

    def _from(self, node: Node, level: Level) -> list[Range]:
        """The relations of one entry of FROM."""
        kind, fields = kind_of(node)
        alias = fields.get("alias", {})
        match kind:
            case "RangeVar":
                return [self._relation(fields, level)]
            case "JoinExpr":
                return self._join(fields, level)
            case "RangeSubselect":
                columns = self.query(fields["subquery"], level, sees=bool(fields.get("lateral")))
                columns = aliased(alias.get("colnames"), columns)
                return [derived(alias.get("aliasname", ""), columns)]
            case "RangeTableSample":
                self.expression(fields.get("args"), level)
                return self._from(fields["relation"], level)
            case _:
                self.expression(fields, level)
                return [derived(alias.get("aliasname") or function_name(fields), None)]

    def _join(self, fields: Fields, level: Level) -> list[Range]:
        left = self._from(fields["larg"], level)
        level.ranges.extend(left)  # the right side may be LATERAL
        right = self._from(fields["rarg"], level)
        del level.ranges[len(level.ranges) - len(left) :]
        both = [*left, *right]
        shared = strings(fields.get("usingClause"))
        if fields.get("isNatural"):
            shared = [name for one in left for name in one.columns
                      if any(name in other.columns for other in right)]  # fmt: skip
        inner = Level(level, ranges=both)
        for name in shared:
            for table, column in origins(inner, [name]):
                self._ledger.read(table, column)
        self.expression(fields.get("quals"), inner)
        alias = fields.get("alias")
        return [joined(alias, both)] if alias else both

    def _relation(self, fields: Fields, level: Level) -> Range:
        """A relation that is read."""
        alias = fields.get("alias", {})
        name = str(fields.get("relname", ""))
        if "schemaname" not in fields:
            is_cte, columns = level.cte(name)
            if is_cte:
                columns = aliased(alias.get("colnames"), columns)
                return derived(alias.get("aliasname", name), columns)
        relation = self._names.relation(fields)
        match relation.kind:
            case Kind.TABLE:
                for table in relation.tables:
                    self._ledger.read(table)
            case Kind.VIEW:
                self._ledger.read(relation.name)
            case Kind.UNKNOWN:
                self._ledger.doubt(relation.reason)
            case Kind.IGNORED:
                pass
        return of_relation(relation, fields)

    def _target(self, fields: Fields, event: Event, columns: set[str] | None) -> Range:
        """A relation that is written."""
        relation = self._names.relation(fields)
        self.write(relation, event, columns)
        return of_relation(relation, fields)

    def write(self, relation: Relation, event: Event, columns: set[str] | None) -> None:
        """Take down a write to a relation; an insert doesn't reach what inherits from it."""
        match relation.kind:
            case Kind.TABLE:
                for table in relation.tables[:1] if event == "insert" else relation.tables:
                    self._ledger.use(table, event, columns)
            case Kind.VIEW:
                self._ledger.use(relation.name, event, columns)
            case Kind.UNKNOWN:
                self._ledger.doubt(relation.reason)
            case Kind.IGNORED:
                pass

    def _insert(self, fields: Fields, level: Level) -> tuple[str, ...] | None:
        self._with(fields.get("withClause"), level)
        named = set(target_columns(fields.get("cols")))
        target = self._target(fields["relation"], "insert", named or None)
        if "selectStmt" in fields:
            self.query(fields["selectStmt"], level)
        level.ranges.append(target)
        self._on_conflict(fields, target, level)
        return self._returning(fields, level)

    def _on_conflict(self, fields: Fields, target: Range, level: Level) -> None:
        clause = fields.get("onConflictClause", {})
        infer = clause.get("infer", {})
        for item in infer.get("indexElems", []):
            for table, column in origins(level, [item["IndexElem"].get("name", "")]):
                self._ledger.use(table, "read", {column} if column else None)
        self.expression(infer, level)
        if clause.get("action") == "ONCONFLICT_UPDATE":
            self.write(
                self._names.relation(fields["relation"]),
                "update", set(target_columns(clause.get("targetList"))),
            )  # fmt: skip
            inner = Level(level, ranges=[derived("excluded", (), is_hidden=True)])
            self.expression([clause.get("targetList"), clause.get("whereClause")], inner)

    def _update(self, fields: Fields, level: Level) -> tuple[str, ...] | None:
        self._with(fields.get("withClause"), level)
        columns = set(target_columns(fields.get("targetList")))
        level.ranges.append(self._target(fields["relation"], "update", columns))
        for item in fields.get("fromClause", []):
            level.ranges.extend(self._from(item, level))
        self.expression([fields.get("targetList"), fields.get("whereClause")], level)
        return self._returning(fields, level)

    def _delete(self, fields: Fields, level: Level) -> tuple[str, ...] | None:
        self._with(fields.get("withClause"), level)
        level.ranges.append(self._target(fields["relation"], "delete", None))
        for item in fields.get("usingClause", []):
            level.ranges.extend(self._from(item, level))
        self.expression(fields.get("whereClause"), level)
        return self._returning(fields, level)

    def _merge(self, fields: Fields, level: Level) -> tuple[str, ...] | None:
        self._with(fields.get("withClause"), level)
        relation = self._names.relation(fields["relation"])
        level.ranges.append(of_relation(relation, fields["relation"]))
        level.ranges.extend(self._from(fields["sourceRelation"], level))
        for node in fields.get("mergeWhenClauses", []):
            clause = node["MergeWhenClause"]
            if event := _WRITES.get(clause.get("commandType", "")):
                named = (
                    set(target_columns(clause.get("targetList"))) if event != "delete" else set()
                )
                self.write(relation, event, named or None)
        self.expression([fields.get("joinCondition"), fields.get("mergeWhenClauses")], level)
        return self._returning(fields, level)

    def _returning(self, fields: Fields, level: Level) -> tuple[str, ...] | None:
        targets = fields.get("returningList", [])
        # PostgreSQL 18 has old.column and new.column here.
        versions = [version(level.ranges[0], name) for name in ("old", "new") if level.ranges]
        inner = Level(level.parent, level.sees_parent, [*level.ranges, *versions], level.ctes)
        self.expression(targets, inner)
        return output.output_columns(targets, inner)
