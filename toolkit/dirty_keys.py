"""Keys that changed since they were proven equal: fewer before the pause, all proven in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from cdc.connect import Connection
from plans.errors import GivenUp
from plans.routes import Route
from toolkit.noting import note_forgotten
from toolkit.sides import Sides
from toolkit.state import Direction
from toolkit.stored import stored
from toolkit.validation import VISIBLE_S_MAX, Compared, pair_for
from validators.compare import compare_whole
from validators.keys import compare_keys
from validators.results import KeysResult
from validators.session import Ends, connected
from validators.sides import Key, Pair
from validators.visibility import position

SHRINK_ROUNDS = 3
REHEARSED_KEYS = 2_000
SHRUNK = 500  # dirty keys that a pause hardly notices
SHRINK_S_MAX = 60.0


@contextmanager
def open_ends(sides: Sides) -> Iterator[Mapping[str, Ends]]:
    """Connections for comparing keys, by service: opened before anybody has to wait for them."""
    with ExitStack() as stack:
        ends = {}
        for service in sides.movers:
            dsns = sides.split.plan.source.dsn, sides.split.dsn(service)
            ordered = dsns if sides.direction is Direction.CUTOVER else dsns[::-1]
            ends[service] = stack.enter_context(connected(*ordered))
        yield ends


def shrink_dirty(sides: Sides, ends: Mapping[str, Ends]) -> int:
    """Prove dirty keys equal while writers go on, so that fewer are left for the pause.

    A key that is equal now needs no proof later unless it changes again, which the
    stream notes with a later position.  Returns the number that is left.
    """
    left = 0
    for _ in range(SHRINK_ROUNDS):
        left = 0
        for service in sides.movers:
            leader, follower = sides.leader(service), sides.follower(service)
            for route, keys in _with_dirty(sides, service):
                if route.key:
                    left += _shrink(sides, ends[service], route, keys, leader, follower)
        if left <= SHRUNK:
            break
    return left


def verification_s(sides: Sides, ends: Mapping[str, Ends], compared: Compared) -> float:
    """How long `verify_dirty` would take now, by what a part of the dirty keys takes.

    Tables without a key are compared as a whole, which took as long a moment ago.
    """
    took_s = {result.route: result.elapsed_s for result in compared.results}

    def estimate(service: str) -> float:
        total = 0.0
        for route, keys in _with_dirty(sides, service):
            if not route.key:
                total += took_s.get(route.id, 0.0)
                continue
            some = keys[:REHEARSED_KEYS]
            began = time.monotonic()
            pair = pair_for(sides.split, route, sides.direction)
            compare_keys(ends[service], pair, some, timeout_s=SHRINK_S_MAX)
            total += (time.monotonic() - began) * len(keys) / len(some)
        return total

    # The services are verified at the same time.
    return max((estimate(service) for service in sides.movers), default=0.0)


def verify_dirty(sides: Sides, ends: Mapping[str, Ends], deadline: float) -> dict[str, Any]:
    """Compare, at the fence, every key that changed since it was last proven equal.

    Raises GivenUp if one differs, or if that cannot be told.
    """

    def verify(service: str) -> dict[str, int]:
        return {
            route.id: _verify(
                ends[service], pair_for(sides.split, route, sides.direction), keys, deadline
            )
            for route, keys in dirty[service]
        }

    dirty = {service: _with_dirty(sides, service) for service in sides.movers}
    with ThreadPoolExecutor(max(1, len(dirty)), thread_name_prefix="verify") as pool:
        found = list(pool.map(verify, dirty))
    told = {route: count for counts in found for route, count in counts.items()}
    return {"dirty_keys": told, "compared": sum(told.values())}


def _with_dirty(sides: Sides, service: str) -> list[tuple[Route, list[Key]]]:
    """The routes of a service that have dirty keys, with these."""
    rows = sides.follower(service).execute(
        "SELECT route, jsonb_agg(key) FROM dbsplit.dirty WHERE route = ANY (%s) GROUP BY route",
        [[route.id for route in sides.split.owned([service])]],
    )
    keys = {route: [tuple(key) for key in some] for route, some in rows.fetchall()}
    return [(r, keys[r.id]) for r in sides.split.owned([service]) if r.id in keys]


def _shrink(
    sides: Sides,
    ends: Ends,
    route: Route,
    keys: list[Key],
    leader: Connection,
    follower: Connection,
) -> int:
    """Forget the keys that are equal; returns how many are not, or could not be told."""
    since = position(leader, VISIBLE_S_MAX)
    pair = pair_for(sides.split, route, sides.direction)
    result = compare_keys(ends, pair, keys, timeout_s=SHRINK_S_MAX)
    if result.state == "unverified":
        return len(keys)
    note_forgotten(follower, route.id, since)
    follower.execute(
        "DELETE FROM dbsplit.dirty WHERE route = %s AND lsn < %s::pg_lsn"
        " AND key <> ALL (%s::jsonb[])",
        [route.id, since, [stored(follower, key) for key in result.differing]],
    )
    return len(result.differing)


def _verify(ends: Ends, pair: Pair, keys: list[Key], deadline: float) -> int:
    if not pair.key:
        whole = compare_whole(ends, pair)
        differing = whole.missing + whole.extra + whole.different
        _require_equal(whole.route, whole.state, f"{differing} rows", whole.reason)
        return whole.rows
    left_s = max(deadline - time.monotonic(), 0.1)
    result: KeysResult = compare_keys(ends, pair, keys, timeout_s=left_s)
    rows = f"{len(result.differing)} rows"  # whose keys may be masked
    _require_equal(result.route, result.state, rows, result.reason)
    return result.compared


def _require_equal(route: str, state: str, what: str, reason: str) -> None:
    if state == "different":
        raise GivenUp(
            f"{what} of {route} differ at the fence",
            hint="run `dbsplit validate` and mend what differs",
        )
    if state != "equal":
        raise GivenUp(
            f"{route} could not be compared at the fence: {reason}",
            hint="repeat the command; allow a longer limits.write_pause_s_max",
        )
