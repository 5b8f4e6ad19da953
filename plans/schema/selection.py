"""Choosing what comes along: no more than is used, and nothing that needs what isn't there."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from plans.schema.objects import Address, Need, Object

Outside = Callable[[Need], str | None]
"""Names what a need crosses the service's boundary for, None where it does not."""
Name = Callable[[Address], str]


@dataclass(frozen=True, slots=True)
class Graph:
    """Objects and what they need, a need being of an object or of a column of a table."""

    objects: Mapping[Address, Object]
    needs: Mapping[Address, tuple[Need, ...]]

    @classmethod
    def of(cls, objects: Iterable[Object], needs: Iterable[Need]) -> Graph:
        """With the needs sorted by who has them."""
        by: dict[Address, list[Need]] = defaultdict(list)
        for need in needs:
            by[need.by.whole].append(need)
        found = {one.address: one for one in objects}
        return cls(found, {address: tuple(by.get(address, ())) for address in found})

    def closure(self, start: Iterable[Address], *, hard_only: bool = False) -> set[Address]:
        """`start` and everything it needs, directly or not."""
        found: set[Address] = set()
        todo = [address for address in start if address in self.objects]
        while todo:
            address = todo.pop()
            if address not in found:
                found.add(address)
                todo += (
                    need.of.whole
                    for need in self.needs[address]
                    if need.of.whole in self.objects and (need.hard or not hard_only)
                )
        return found


def refusals(graph: Graph, outside: Outside, name: Name) -> dict[Address, str]:
    """Why what cannot come along cannot: the shortest chain to what crosses the boundary."""
    refused: dict[Address, str] = {}
    users: dict[Address, list[Address]] = defaultdict(list)
    for address, one in graph.objects.items():
        crossing = (
            f"{_verb(one, need.of)} {what}"
            for need in graph.needs[address]
            if (what := outside(need)) is not None
        )
        if reason := one.objection or next(crossing, None):
            refused[address] = reason
        for need in graph.needs[address]:
            users[need.of.whole].append(address)
    todo = deque(refused)
    while todo:
        address = todo.popleft()
        for user in users[address]:
            if user not in refused:
                verb = _verb(graph.objects[user], address)
                refused[user] = f"{verb} {name(address)}, which {refused[address]}"
                todo.append(user)
    return refused


def _verb(by: Object, of: Address) -> str:
    if of.catalog == "pg_proc":
        return "calls"
    return {"function": "mentions", "view": "reads", "foreign key": "references"}.get(
        by.kind, "uses"
    )


def wanted(
    graph: Graph, tables: Iterable[Address], refused: Mapping[Address, str], alone: set[Address]
) -> set[Address]:
    """The tables, what hangs on them, those of `alone` that read them, and what these need."""
    chosen = graph.closure(tables)
    touching = {address for address in graph.objects if _touches(graph, address, chosen)}
    grown = True
    while grown:
        more = {
            address
            for address, one in graph.objects.items()
            if address not in chosen
            and address not in refused
            and (
                (one.relation is not None and one.relation.whole in chosen)
                or (address in alone and address in touching)
            )
        }
        chosen |= graph.closure(more)
        touching |= {
            address
            for address in alone - touching
            if any(need.of.whole in touching & alone for need in graph.needs[address])
        }
        grown = bool(more)
    return chosen


def _touches(graph: Graph, address: Address, tables: set[Address]) -> bool:
    return any(
        need.of.whole in tables and graph.objects[need.of.whole].kind == "table"
        for need in graph.needs[address]
    )


def in_order(graph: Graph, chosen: set[Address]) -> list[Object]:
    """What is needed comes first; between equals the order of kinds and names decides.

    A circle, which only strings can make, is entered at its first.
    """
    waiting = {
        address: {
            need.of.whole
            for need in graph.needs[address]
            if need.hard and need.of.whole in chosen and need.of.whole != address
        }
        for address in chosen
    }
    rest = sorted(chosen, key=lambda address: (graph.objects[address].order, address))
    ordered: list[Object] = []
    done: set[Address] = set()
    while rest:
        ready = [address for address in rest if waiting[address] <= done] or rest[:1]
        best = graph.objects[ready[0]].order[:1]
        batch = [address for address in ready if graph.objects[address].order[:1] == best]
        ordered += (graph.objects[address] for address in batch)
        done.update(batch)
        rest = [address for address in rest if address not in done]
    return ordered
