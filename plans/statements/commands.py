"""One statement after the other: what each uses, and what it changes for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from plans.statements.bodies import Body, Piece, body_of, language_of
from plans.statements.built import Built
from plans.statements.definers import created_routine, created_view
from plans.statements.ledger import Ledger, Uses
from plans.statements.model import Verb
from plans.statements.names import Kind, Names
from plans.statements.placeholders import parsed
from plans.statements.problems import Unparsable
from plans.statements.queries import QUERIES, Queries
from plans.statements.ranges import Level
from plans.statements.search_path import SearchPath
from plans.statements.splitting import split
from plans.statements.tree import Node, kind_of, nodes, parse, strings

Fields = Mapping[str, Any]
_VERBS: Mapping[str, Verb] = {
    "SelectStmt": "select", "InsertStmt": "insert", "UpdateStmt": "update",
    "DeleteStmt": "delete", "MergeStmt": "merge", "TruncateStmt": "truncate", "CopyStmt": "copy",
    "CallStmt": "call", "DoStmt": "do", "DeclareCursorStmt": "select", "CreateStmt": "ddl",
    "CreateTableAsStmt": "ddl", "ViewStmt": "ddl", "CreateFunctionStmt": "ddl",
    "AlterTableStmt": "ddl", "IndexStmt": "ddl", "CreateTrigStmt": "ddl", "RuleStmt": "ddl",
    "RenameStmt": "ddl", "CreatePolicyStmt": "ddl", "DropStmt": "ddl",
    "AlterObjectSchemaStmt": "ddl", "CreateSchemaStmt": "ddl", "CreateSeqStmt": "ddl",
    "CreateExtensionStmt": "ddl", "CreateEnumStmt": "ddl", "CreateDomainStmt": "ddl",
    "CompositeTypeStmt": "ddl", "AlterSeqStmt": "ddl", "AlterFunctionStmt": "ddl",
    "AlterOwnerStmt": "ddl", "CommentStmt": "ddl", "GrantStmt": "ddl", "DefineStmt": "ddl",
    "AlterPolicyStmt": "ddl", "AlterEnumStmt": "ddl", "CreateStatsStmt": "ddl",
}  # fmt: skip
_OF_TABLES = frozenset({"OBJECT_TABLE", "OBJECT_COLUMN", "OBJECT_TABCONSTRAINT"})
DYNAMIC = "dynamic SQL"


class Session:
    """Reads statements in their order, as a database session runs them."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._path = SearchPath(names)
        self._prepared: dict[str, tuple[Verb, Uses]] = {}
        self._ledger = Ledger()
        self._read: Mapping[str, Callable[[Fields], None]] = {
            "CopyStmt": self._copy,
            "TruncateStmt": self._truncate,
            "LockStmt": self._lock,
            "CreateTableAsStmt": self._create_as,
            "CreateStmt": self._create,
            "ViewStmt": self._create_view,
            "RefreshMatViewStmt": lambda fields: self._look(fields["relation"]),
            "CallStmt": lambda fields: self._queries.expression(
                {"FuncCall": fields["funccall"]}, Level()
            ),
            "VariableSetStmt": lambda fields: self._path.set(fields, self._ledger),
            "TransactionStmt": self._path.transaction,
            "DropStmt": self._drop,
            "RuleStmt": self._create_rule,
            "CreateTrigStmt": self._create_trigger,
            "AlterTableStmt": self._alter,
            "IndexStmt": self._alter,
            "RenameStmt": self._alter,
            "AlterObjectSchemaStmt": self._alter,
            "CreatePolicyStmt": self._alter,
            "AlterPolicyStmt": self._alter,
        }

    @property
    def _queries(self) -> Queries:
        return Queries(self._names, self._ledger, self.run)

    def read(self, tree: Node, text: str) -> tuple[Verb, Uses]:
        """One statement, of which `text` is the source."""
        outer, self._ledger = self._ledger, Ledger()
        try:
            return self._statement(tree, text), self._ledger.uses()
        finally:
            self._ledger = outer

    def _statement(self, tree: Node, text: str) -> Verb:
        kind, fields = kind_of(tree)
        match kind:
            case "ExplainStmt" | "DeclareCursorStmt":
                return self._statement(fields["query"], text)
            case "PrepareStmt":
                verb, uses = self.read(fields["query"], text)
                self._prepared[fields["name"]] = verb, uses
                self._ledger.add(uses)
                return verb
            case "ExecuteStmt":
                return self._execute(fields)
            case "DoStmt":
                self._do(fields, text)
            case "CreateFunctionStmt":
                routine = created_routine(fields, text, self._names)
                self._names.define_routine(routine)
                self._ledger.call(routine)
            case _ if kind in self._read:
                self._read[kind](fields)
            case _ if kind in QUERIES:
                self._query(tree, text)
            case _:
                pass
        return _VERBS.get(kind, "other")

    def _query(self, tree: Node, text: str) -> None:
        self._queries.query(tree)
        self._path.after_query(tree, text)
        if into := kind_of(tree)[1].get("intoClause"):
            self._names.define_table(into["rel"])

    def run(self, text: str, who: str) -> None:
        """Read statements inside of one; `who` runs them."""
        for part in split(text):
            try:
                _, trees = parsed(part.text)
            except Unparsable as problem:
                self._ledger.doubt(f"a statement that {who} runs can't be parsed: {problem}")
                continue
            for tree in trees:
                self._ledger.add(self.read(tree, part.text)[1])

    def run_body(self, body: Body, who: str) -> None:
        """Read the body of a function; of all its branches."""
        for tree in body.trees:
            self._ledger.add(self.read(tree, "")[1])
        built = Built({name: value for name, text in body.constants.items()
                       if (value := _value(text))})  # fmt: skip
        for piece in body.pieces:
            try:
                self._piece(piece, who, built)
            except Unparsable as problem:
                self._ledger.doubt(f"a part of {who} can't be parsed: {problem}")

    def uses(self) -> Uses:
        """What was read by `run` and `run_body`."""
        return self._ledger.uses()

    def _piece(self, piece: Piece, who: str, built: Built) -> None:
        if piece.kind == "statements":
            self.run(piece.text, who)
            return
        if piece.kind == "expression":
            (tree, *_) = parse(f"SELECT {piece.text}")
            self._ledger.add(self.read(tree, piece.text)[1])
            return
        query = built.query(_value(piece.text) or {})
        if query is None:
            self._ledger.doubt(f"{DYNAMIC} in {who}")
        else:
            self.run(query, who)

    def _execute(self, fields: Fields) -> Verb:
        self._queries.expression(fields.get("params"), Level())
        known = self._prepared.get(fields["name"])
        if known is None:
            self._ledger.doubt(f"{fields['name']} is prepared elsewhere")
            return "other"
        self._ledger.add(known[1])
        return known[0]

    def _do(self, fields: Fields, text: str) -> None:
        who = "a DO block"
        language = language_of(fields)
        if language != "plpgsql":
            self._ledger.doubt(f"{who} is written in {language}")
            return
        try:
            self.run_body(body_of(fields, text), who)
        except Unparsable as problem:
            self._ledger.doubt(f"{who} can't be parsed: {problem}")

    def _copy(self, fields: Fields) -> None:
        if "query" in fields:
            self._queries.query(fields["query"])
            return
        columns = set(strings(fields.get("attlist")))
        relation = self._names.relation(fields["relation"])
        if fields.get("is_from"):
            self._queries.write(relation, "insert", columns or None)
            return
        self._look(fields["relation"])
        for table in relation.tables[:1]:
            self._ledger.use(table, "read", columns or None)

    def _truncate(self, fields: Fields) -> None:
        waiting = [self._names.relation(node["RangeVar"]) for node in fields["relations"]]
        for relation in waiting:
            self._queries.write(relation, "truncate", None)
        if fields.get("behavior") != "DROP_CASCADE":
            return
        tables = [table for relation in waiting for table in relation.tables]
        for table in tables:  # grows while it is read
            for key in self._names.scope.referencing.get(table, ()):
                root = self._names.scope.root(key.table)
                self._ledger.use(root, "truncate", None)
                if root not in tables:
                    tables.append(root)

    def _lock(self, fields: Fields) -> None:
        for node in fields["relations"]:
            self._look(node["RangeVar"])

    def _look(self, node: Fields) -> None:
        """A relation is read as such, no columns of it."""
        relation = self._names.relation(node)
        for table in relation.tables:
            self._ledger.read(table)
        if relation.kind is Kind.VIEW:
            self._ledger.read(relation.name)
        elif relation.kind is Kind.UNKNOWN:
            self._ledger.doubt(relation.reason)

    def _create_as(self, fields: Fields) -> None:
        self._statement(fields["query"], "")
        relation = fields["into"]["rel"]
        if fields.get("objtype") == "OBJECT_MATVIEW":
            created_view(relation, fields["query"], fields["into"].get("colNames"), self._names)
        else:
            self._names.define_table(relation)

    def _create(self, fields: Fields) -> None:
        self._names.define_table(fields["relation"])  # it may refer to itself
        for kind, part in nodes(fields):
            if kind == "pktable":
                self._look(part)
            elif kind == "TableLikeClause":
                self._look(part["relation"])
        for node in fields.get("inhRelations", []):
            self._look(node["RangeVar"])

    def _create_view(self, fields: Fields) -> None:
        self._queries.query(fields["query"])
        created_view(fields["view"], fields["query"], fields.get("aliases"), self._names)

    def _create_rule(self, fields: Fields) -> None:
        self._alter(fields)
        for action in fields.get("actions", []):
            self._queries.query(action)
        self._queries.expression(fields.get("whereClause"), Level())

    def _create_trigger(self, fields: Fields) -> None:
        self._alter(fields)
        for routine in self._names.called(strings(fields["funcname"]), 0):
            self._ledger.call(routine)

    def _alter(self, fields: Fields) -> None:
        """The definition of a table changes."""
        kind = fields.get("objtype") or fields.get("renameType") or fields.get("objectType")
        if kind in (None, *_OF_TABLES) and (named := fields.get("relation") or fields.get("table")):
            self._change([named], missing_ok=bool(fields.get("missing_ok")))
        for key, part in nodes(fields):
            if key == "pktable":
                self._look(part)

    def _drop(self, fields: Fields) -> None:
        if fields.get("removeType") != "OBJECT_TABLE":
            return
        named = []
        for item in fields.get("objects", []):
            *schema, name = strings(item["List"]["items"])
            named.append({"relname": name, **({"schemaname": schema[-1]} if schema else {})})
        self._change(named, missing_ok=bool(fields.get("missing_ok")))
        for relation in named:
            self._names.temporary.pop(relation["relname"], None)

    def _change(self, named: Iterable[Fields], *, missing_ok: bool) -> None:
        for node in named:
            relation = self._names.relation(node)
            if relation.kind is Kind.TABLE:
                self._ledger.use(relation.name, "alter", None)
            elif relation.kind is Kind.UNKNOWN and not missing_ok:
                self._ledger.doubt(relation.reason)


def _value(expression: str) -> Node | None:
    """The tree of one expression."""
    try:
        match parse(f"SELECT {expression}"):
            case [{"SelectStmt": {"targetList": [{"ResTarget": {"val": dict() as value}}]}}]:
                return value
            case _:
                return None
    except Unparsable:
        return None
