"""The plan reference for people, written from `plans.model`.

``python -m plans.plan_reference > docs/plan.md`` writes it anew after a change of
the model or of the bundled plan, from which the examples are taken.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from plans.model import NAME_PATTERN
from plans.places import Path as PlanPath
from plans.plan_schema import schema

BUNDLED: Final = Path(__file__).parent / "crm_shop" / "plan.yaml"
LINES_MAX: Final = 12
"""Of one example; longer ones are cut."""

Schema = Mapping[str, Any]

HEAD: Final = f"""\
# The plan file

One YAML file says what becomes of every table of the shared database. It is reviewed like code: \
comments stay, an editor completes and checks it by its JSON Schema \
([plans/plan.schema.json](../plans/plan.schema.json)), and `dbsplit plan check` says everything \
that stands against it at once, with file, line and column.

This page is written from the model that reads the file: \
`python -m plans.plan_reference > docs/plan.md`. All examples are from the bundled plan, \
[plans/crm_shop/plan.yaml](../plans/crm_shop/plan.yaml), unless they say otherwise. \
[Concepts](concepts.md) explains the words.

Rules that hold everywhere:

- A key that is not named here is an error, with the nearest known key as a suggestion.
- `${{NAME}}` in a DSN is taken from the environment. A password in the file is refused.
- A *name* matches `{NAME_PATTERN}`, since slots are named after it. No two \
services may name the same slot or replication origin: `a` and `a_back`, `a_repair` or \
`a_refresh` do.
- Tables are named as in the database, without quotes: `CampaignMembers`, or `schema.table`.
- Every table of the listed schemas has an entry. `drop` says out loud that one is left behind.
- An *expression* is immutable SQL over the columns of one source row: no subquery, no aggregate, \
no `now()`, no qualified column, no generated column. `where` and the predicates of `split_rows` \
are expressions too.
- After `prepare`, the keys `split`, `source.schemas`, `tables`, `foreign_keys` and the names of \
the services must not change: every later verb but `status` would end with exit code 3. Where \
the source's schema has changed, `dbsplit plan refresh` writes the next revision and carries it \
over. DSNs, roles, lists, sequences, limits, slots, ddl and the switch may change at any time; a \
running `dbsplit stream` has read them when it started.
"""

NOTES: Final[Mapping[str, str]] = {
    "TablePlan": """\
A table's entry may be its owner alone: `leads: crm` is `leads: {owner: crm}`. Otherwise it has \
exactly one of `owner`, `split_columns` and `split_rows`.

- `split_columns`: every part has all columns of the primary key. Every other column is in one \
part, or under `drop`.
- `split_rows`: for every row exactly one predicate is true. `plan check` proves that on the data \
as it is; NULL is not true.
- `reference_in` needs an `owner`. The copy is whole, and read-only until `dbsplit complete`.
- `drop` needs no reason, but a dropped column that is NOT NULL without default in the source \
keeps the service from inserting until `complete`: its rows could not travel back.
- `mask`: where a comparison, a repair or a report shows a difference, a hash stands for the \
values of these columns and for what is computed from them, also in a key. Within one run, equal \
values have equal hashes. It may be changed while a split runs.""",
    "Derive": """\
The target table is made by the service's own `revisions`, and has a unique index on the key. \
Several entries may fill one table if a constant in each key tells their rows apart. Derived rows \
are read-only in the target until `dbsplit complete`.""",
    "CutForeignKey": """\
A foreign key is cut if its two ends are in different services, or in parts of a table that do \
not hold all rows. Cut keys are left out in the target, whether they are named here or not; \
naming one ends the warning. `plan check` counts, for every cut key, the rows that refer to \
nothing today.

| `replace_with` | the service's database gets | `validate` |
| --- | --- | --- |
| `none` | nothing | does not look |
| `reference` | the key anew, to the read-only copy, after the data; needs `reference_in` | has no \
need to |
| `orphan_check` | an index on the referring columns, unless one leads with them | lists the rows \
that refer to a row which the owning service does not have |

Orphans do not make a comparison inconsistent and do not change an exit code: they are no \
difference between the two sides, and the source may have them, too. See the \
[runbook](runbook.md#orphans).""",
    "Listing": """\
`dbsplit plan check` runs the lists on the source, `dbsplit validate` all of them. Each shows its \
first 20 rows. Rows do not change an exit code; a list on the source that cannot be read is a \
blocker of `plan check`.""",
    "Sequences": """\
A new leader's sequences start behind the furthest number that is known on either side, and this \
gap. See [correctness](correctness.md#numbers-that-interleave).""",
    "Limits": """\
Each but `lock_timeout_ms` is the limit of a gate, of the pause, or of the copy: see the runbook \
on [gates](runbook.md#gates) and on [copy](runbook.md#copy). `wal_retained_bytes_max` is held \
against the source's slot and those of the targets that have moved. Where \
`max_slot_wal_keep_size` of a server is nearer, that counts.""",
    "Slots": """\
`failover` is heeded from PostgreSQL 17 on, and harmless without standbys. See the \
[runbook](runbook.md#slots-and-the-sources-disk).

With `over_budget: give_up`, `stream` and `copy` drop the source's slot as soon as it keeps more \
than the limit, and the split needs a new copy: rather that than a full disk. Nothing can do so \
while neither of them runs; `max_slot_wal_keep_size` can.""",
    "Ddl": """\
`stop` ends the stream before the first row that would be wrong, with exit code 7 and what to do. \
`carry` does by itself what `dbsplit plan refresh` would do, and goes on; killed on the way, the \
next `dbsplit stream` goes on with it. What each kind of change means is in the \
[runbook](runbook.md#ddl-on-the-source). Tables that are renamed or dropped always \
stop the stream.""",
    "PgbouncerSwitch": """\
**Not supported by this version:** `plan check` reports it as a blocker. Use `kind: command`.""",
    "CommandSwitch": """\
What the command is told, and what it has to do, is in the \
[runbook](runbook.md#the-switch-command). Another example than the bundled plan's, which has no \
switch of its own:

```yaml
switch: {kind: command, command: [/usr/local/bin/switch-traffic, --pooler, main], timeout_s: 5}
```""",
}

EXAMPLES: Final[Mapping[str, tuple[PlanPath, ...]]] = {
    "PlanFile": (("split",),),
    "Source": (("source",),),
    "Service": (("services",),),
    "TablePlan": (
        ("tables", "leads"),
        ("tables", "customers"),
        ("tables", "interactions"),
        ("tables", "products"),
    ),
    "Derive": (("tables", "orders", "derive", 1),),
    "CutForeignKey": (
        ("foreign_keys", "leads_product_id_fkey"),
        ("foreign_keys", "orders_manager_id_fkey"),
    ),
    "Listing": (("lists", "contradictions"),),
    "Sequences": (("sequences",),),
    "Limits": (("limits",),),
    "NoSwitch": (("switch",),),
}

WHERE: Final[Mapping[str, str]] = {
    "PlanFile": "The file",
    "Source": "source",
    "Service": "services.NAME",
    "TablePlan": "tables.NAME",
    "Derive": "tables.NAME.derive[]",
    "CutForeignKey": "foreign_keys.NAME",
    "Listing": "lists.NAME",
    "Sequences": "sequences",
    "Limits": "limits",
    "Slots": "slots",
    "Ddl": "ddl",
    "NoSwitch": "switch, kind: none",
    "CommandSwitch": "switch, kind: command",
    "PgbouncerSwitch": "switch, kind: pgbouncer",
}


def reference_text() -> str:
    """The reference as it stands in docs/plan.md."""
    whole = schema()
    mappings: dict[str, Schema] = {"PlanFile": whole, **whole["$defs"]}
    plan = _Bundled(BUNDLED)
    sections = [_section(name, mappings[name], mappings, plan) for name in WHERE]
    return "\n".join([HEAD, *sections])


def _section(name: str, mapping: Schema, mappings: Mapping[str, Schema], plan: _Bundled) -> str:
    parts = [f"## {WHERE[name]}\n\n{mapping['description']}\n"]
    parts.append("| key | type | default | meaning |\n| --- | --- | --- | --- |")
    required = mapping.get("required", [])
    for key, entry in mapping["properties"].items():
        cells = (
            f"`{key}`",
            _type(entry),
            "required" if key in required else _default(entry),
            _meaning(entry, mappings),
        )
        parts.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    if note := NOTES.get(name):
        parts.append(f"\n{note}")
    if paths := EXAMPLES.get(name):
        shown = "\n".join(plan.text(path) for path in paths)
        parts.append(f"\n```yaml\n{shown}\n```")
    return "\n".join(parts) + "\n"


def _type(entry: Schema) -> str:
    if "$ref" in entry:
        return _link(entry["$ref"].rpartition("/")[2])
    if choices := entry.get("oneOf") or entry.get("anyOf"):
        kinds = [_type(choice) for choice in choices if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in entry or "enum" in entry:
        return " or ".join(f"`{word}`" for word in entry.get("enum", [entry.get("const")]))
    match entry["type"]:
        case "array":
            return f"list of {_type(entry['items'])}{_at_least(entry.get('minItems'))}"
        case "object":
            [value] = entry["patternProperties"].values()
            return f"mapping of name to {_type(value)}{_at_least(entry.get('minProperties'))}"
        case "string":
            return {"path": "path"}.get(entry.get("format", ""), _text(entry))
        case kind:
            return f"{kind}{_bound(entry)}"


def _link(name: str) -> str:
    title = WHERE[name]
    anchor = "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")
    return f"[{title}](#{anchor})"


def _text(entry: Schema) -> str:
    return "name" if entry.get("pattern") == NAME_PATTERN else "text"


def _at_least(count: int | None) -> str:
    return f", at least {count}" if count else ""


def _bound(entry: Schema) -> str:
    if "exclusiveMinimum" in entry:
        return f" above {entry['exclusiveMinimum']}"
    return f" from {entry['minimum']}" if "minimum" in entry else ""


def _default(entry: Schema) -> str:
    default = entry.get("default")
    if default in (None, [], {}):
        return "none"
    if isinstance(default, dict):
        return "see there"
    return f"`{', '.join(default) if isinstance(default, list) else default}`"


def _meaning(entry: Schema, mappings: Mapping[str, Schema]) -> str:
    if said := entry.get("description"):
        return str(said)
    referred = sorted({name for name in _references(entry) if name in mappings})
    if len(referred) == 1:
        return str(mappings[referred[0]]["description"])
    return "How traffic is switched." if referred else "Which of them this is."


def _references(entry: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if isinstance(entry, dict):
        if isinstance(reference := entry.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for value in entry.values():
            yield from _references(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from _references(value)


class _Bundled:
    """The bundled plan's text, entry by entry."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        self._lines = text.splitlines()
        self._root: Node = YAML(typ="rt", pure=True).compose(text)

    def text(self, path: PlanPath) -> str:
        """The lines of an entry, with its key, moved to the left, and cut if there are many."""
        begin, end = self._extent(path)
        found = self._lines[begin:end]
        while found and (not found[-1].strip() or found[-1].lstrip().startswith("#")):
            found.pop()
        if len(found) > LINES_MAX:
            indent = found[1][: len(found[1]) - len(found[1].lstrip())]
            found = [*found[: LINES_MAX - 1], f"{indent}  …"]
        return dedent("\n".join(found))

    def _extent(self, path: PlanPath) -> tuple[int, int]:
        node, begin = self._root, 0
        for part in path:
            if isinstance(node, MappingNode):
                key, node = next((k, v) for k, v in node.value if k.value == part)
                begin = key.start_mark.line
            elif isinstance(node, SequenceNode):
                node = node.value[part]
                begin = node.start_mark.line
        # A block ends where the next token begins, which is on another line.
        return begin, node.end_mark.line + (0 if _is_block(node) else 1)


def _is_block(node: Node) -> bool:
    if isinstance(node, MappingNode | SequenceNode):
        return not node.flow_style
    return isinstance(node, ScalarNode) and node.style in ("|", ">")


if __name__ == "__main__":
    sys.stdout.write(reference_text())
