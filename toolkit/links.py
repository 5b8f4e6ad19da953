"""What the stream process has to follow: the source, and every target that was moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from cdc.connect import connect
from cdc.copy_record import copied
from cdc.follow import Feed
from cdc.link import Link
from cdc.lsn import LSN
from cdc.past import Past
from cdc.slot import Server
from plans import names
from plans.errors import NotReady, StreamBroken
from plans.routes import Kind, Route
from plans.schema.staging import staging_types
from toolkit.opened import Split
from toolkit.prepared import numbers_of, passed_of, past_of, past_of_leader
from toolkit.privileges import require_temporary
from toolkit.slot_server import SOURCE, known_server


def forward_feed(
    split: Split, *, of_several_moments: bool = False, aside: Collection[str] = ()
) -> Feed:
    """The source's slot and the links to all targets; routes that are `aside` are left out.

    Until the stream has passed the latest horizon, targets may be of several moments.

    Raises NotReady if a route is not copied yet: without its horizon the stream
    would not know which changes the copy has; or if the role may not stage rows in a target, or in
    the source on a way back.
    """
    taken = [route for route in split.routes if route.id not in aside]
    # A target without a route now goes on with the others: it will have one again.
    services = {route.service for route in split.routes}
    manner = _Manner(names.slot(split.name), names.stream, names.origin, of_several_moments)
    return _from_source(split, taken, services, manner)


def refresh_feed(split: Split, routes: Collection[str]) -> Feed:
    """What brings these routes to where the stream is, which leaves them out meanwhile."""
    taken = [route for route in split.routes if route.id in routes]
    manner = _Manner(
        names.refresh_slot(split.name),
        names.refresh_stream,
        names.refresh_origin,
        of_several_moments=True,
    )
    return _from_source(split, taken, {route.service for route in taken}, manner)


class _Manner(NamedTuple):
    """By which slot, and under which names, the source's changes come to a target."""

    slot: str
    stream: names.OfService
    origin: names.OfService
    of_several_moments: bool


def _from_source(
    split: Split, taken: Sequence[Route], services: Collection[str], manner: _Manner
) -> Feed:
    links = []
    with connect(split.plan.source.dsn) as source:
        require_temporary(source, "source")  # a way back may begin at any time
        passed = passed_of(source, split.name)
    server: Server | None = None
    for service in split.plan.services:
        if service not in services:
            continue
        routes = [route for route in taken if route.service == service]
        with connect(split.plan.source.dsn) as source, connect(split.dsn(service)) as target:
            require_temporary(target, f"service {service}")
            there = copied(target)
            server = known_server(target, split.name, SOURCE) or server
            tables = {route.source.name: route.source for route in routes}
            staging = staging_types(source, tables.values(), target)
        _require_copied(split, service, [route.id for route in routes], there)
        if staging.statements:
            raise StreamBroken(
                f"the rows of service {service} have types that its database lacks: "
                f"{'; '.join(staging.statements)}",
                hint="a type of the source has changed since: `dbsplit plan refresh`",
            )
        horizons = {route.id: there[route.id] for route in routes}
        for route in routes:
            # Nobody else writes what is its own as a whole: before it is only what came back.
            if route.kind is Kind.WHOLE and route.id in passed:
                horizons[route.id] = max(horizons[route.id], LSN.parse(passed[route.id][1]))
        links.append(
            Link(
                split=split.name,
                service=service,
                stream=manner.stream(split.name, service),
                origin=manner.origin(split.name, service),
                echoes=frozenset(
                    {
                        names.back_origin(split.name, service),
                        names.back_repair_origin(split.name, service),
                    }
                ),
                foreign=frozenset(
                    origin(split.name, other)
                    for other in split.plan.services
                    if other != service
                    for origin in (names.back_origin, names.back_repair_origin)
                ),
                leader_dsn=split.plan.source.dsn,
                follower_dsn=split.dsn(service),
                flows=tuple(split.forward(route) for route in routes),
                of_several_moments=manner.of_several_moments,
                horizons=horizons,
                types=staging.types,
                sharing=len(split.plan.services),
            )
        )
    with connect(split.plan.source.dsn) as source:
        past = past_of(source, split.name)
        noted = numbers_of(source, split.name)
    tables = {route.source.name: route.source for route in split.routes}
    followed = {route.source.name for route in taken}
    feed = Feed(
        name=split.name,
        leader_dsn=split.plan.source.dsn,
        slot=manner.slot,
        publication=names.publication(split.name),
        links=tuple(links),
        elsewhere=tuple(tables[name] for name in sorted(tables.keys() - followed)),
        noted={name: noted[name] for name in tables if name in noted},
        server=server,
    )
    return replace(feed, past=Past.of(past, binary=feed.binary))


def back_feed(split: Split, service: str) -> Feed:
    """A target's slot and the link back to the source."""
    mine = {route.id for route in split.owned([service])}
    with connect(split.plan.source.dsn) as source:
        server = known_server(source, split.name, service)
        noted = passed_of(source, split.name)
        past = past_of_leader(source, split.name, service)
    passed = {route: LSN.parse(lsn) for route, (lsn, _) in noted.items() if route in mine}
    link = Link(
        split=split.name,
        service=service,
        stream=names.back_stream(split.name, service),
        origin=names.back_origin(split.name, service),
        echoes=frozenset(
            {names.origin(split.name, service), names.repair_origin(split.name, service)}
        ),
        foreign=frozenset(),
        leader_dsn=split.dsn(service),
        follower_dsn=split.plan.source.dsn,
        flows=tuple(split.back(route) for route in split.owned([service])),
        horizons=passed,
        backwards=True,
        sharing=len(split.plan.services),
    )
    feed = Feed(
        name=f"{split.name}/{service} back",
        leader_dsn=split.dsn(service),
        slot=names.back_slot(split.name, service),
        publication=names.back_publication(split.name, service),
        links=(link,),
        server=server,
    )
    return replace(feed, past=Past.of(past, binary=feed.binary))


def require_copied(split: Split, routes: Iterable[Route]) -> None:
    """Raise NotReady if the targets do not have all of these routes' rows."""
    of_service: dict[str, list[str]] = {}
    for route in routes:
        of_service.setdefault(route.service, []).append(route.id)
    for service, ids in of_service.items():
        with connect(split.dsn(service)) as target:
            _require_copied(split, service, ids, copied(target))


def _require_copied(
    split: Split, service: str, routes: list[str], horizons: Mapping[str, LSN]
) -> None:
    missing = [route for route in routes if route not in horizons]
    if missing:
        raise NotReady(
            f"{len(missing)} of {len(routes)} tables of service {service} are not copied yet, "
            f"such as {missing[0]}",
            hint=f"run `dbsplit copy {split.plan.path}`",
        )
