"""What the proposed boundary cuts: foreign keys and statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from plans.boundary import Boundary, Cut, names_of
from plans.catalog import Catalog, ForeignKey, TableName
from plans.propose.draft import Cost, CutKey, CutStatement, Draft
from plans.propose.shapes import Shape
from plans.propose.tally import DAYS_MIN
from plans.propose.yaml_text import flow
from plans.queries.crossing import Verdict, judge
from plans.routes import Kind


def cost(draft: Draft, boundary: Boundary) -> Cost:
    """The cost of a draft whose routes draw the boundary."""
    statements = sorted(
        _statements(draft, boundary), key=lambda one: (-one.per_day, one.text, one.who)
    )
    return Cost(
        keys=tuple(_keys(draft.evidence.catalog, boundary)),
        statements=tuple(statements),
        judged=len(draft.evidence.usage.used),
    )


def _keys(catalog: Catalog, boundary: Boundary) -> Iterator[CutKey]:
    cuts: dict[str, list[Cut]] = defaultdict(list)
    for cut in boundary.cuts(catalog):
        cuts[_written(cut.key, catalog)].append(cut)
    for name, of_key in sorted(cuts.items()):
        if all(cut.has_reference for cut in of_key):
            services = ", ".join(sorted({cut.service for cut in of_key}))
            reason = f"{of_key[0].key.references.name} is copied to {services}"
            yield CutKey(name, "reference", reason)
        else:
            yield CutKey(name, "none", _reason(of_key[0]))


def with_copies_suggested(draft: Draft, boundary: Boundary) -> Draft:
    """The draft, with the read-only copies that would keep keys among the candidates."""
    catalog = draft.evidence.catalog
    wanting: dict[TableName, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cut in boundary.cuts(catalog):
        table = catalog.root(cut.key.references)
        kinds = {route.kind for route in boundary.by_table.get(table, ())}
        if not cut.has_reference and Kind.WHOLE in kinds:
            wanting[table][cut.service].append(cut.key.name)
    tables = [
        replace(one, shape=_with_copies(one.shape, wanting[one.owned.table]))
        if one.owned.table in wanting and one.owned.told is None
        else one
        for one in draft.tables
    ]
    return replace(draft, tables=tuple(tables))


def _with_copies(shape: Shape, wanting: Mapping[str, list[str]]) -> Shape:
    copies = [*shape.entry.get("reference_in", ()), *sorted(wanting)]
    names = ", ".join(sorted({name for held in wanting.values() for name in held}))
    said = f"reference_in: {flow(copies)}  # would keep {names}"
    return replace(shape, candidates=(*shape.candidates, said))


def _reason(cut: Cut) -> str:
    table = cut.key.references.name
    owners = sorted({route.service for route in cut.owners})
    if not owners:
        return f"{table} is left behind"
    if cut.service in owners:
        return f"{cut.service} has only its part of {table}"
    return f"{table} is {' and '.join(owners)}'s"


def _written(key: ForeignKey, catalog: Catalog) -> str:
    """The shortest name that is no other key's."""
    for place, name in enumerate(names_of(key)):
        if sum(names_of(other)[place] == name for other in catalog.foreign_keys) == 1:
            return name
    return names_of(key)[-1]


def _statements(draft: Draft, boundary: Boundary) -> Iterable[CutStatement]:
    """Each statement once for everybody who executes it, whatever origins have seen it."""
    days = {one.name: one.days for one in draft.evidence.usage.origins}
    found: dict[tuple[str, str], CutStatement] = {}
    for used in draft.evidence.usage.used:
        if used.statement.verb == "ddl":
            continue
        judged = judge(used.statement, boundary, draft.roles.service_of(used.actor))
        if judged.verdict not in (Verdict.CROSSES, Verdict.ELSEWHERE):
            continue
        calls, of_days = used.calls or 0.0, days.get(used.origin)
        cut = CutStatement(
            text=" ".join(used.statement.text.split()),
            who=str(used.actor),
            why=judged.why,
            calls=calls,
            per_day=calls / max(of_days, DAYS_MIN) if of_days is not None else 0.0,
        )
        key = (cut.who, judged.fingerprint or cut.text)
        found[key] = max(cut, found.get(key, cut), key=lambda one: (one.per_day, one.calls))
    return found.values()
