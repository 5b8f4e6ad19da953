"""A sequence that a cutover or a rollback sets while services that stay draw from it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from plans.errors import GivenUp
from tests.small_shop import SmallShop, small_shop
from toolkit.opened import open_split
from toolkit.renumber import renumber
from toolkit.servers import Server
from toolkit.sides import open_sides
from toolkit.state import Direction, Phase

pytestmark = pytest.mark.integration

STAYING = {"crm": Phase.FOLLOWING, "shop": Phase.FOLLOWING, "billing": Phase.FOLLOWING}
WAIT_S = 20.0


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    def without_gap(plan: str) -> str:
        return f"{plan}sequences: {{gap: 0}}\n"

    with small_shop(source_server, target_server, tmp_path, edit=without_gap) as shop:
        shop.follow()
        yield shop


class Drawing:
    """Another service's session, which draws number after number."""

    def __init__(self, dsn: str) -> None:
        self.drawn: list[int] = []
        self._dsn, self._over = dsn, threading.Event()
        self._thread = threading.Thread(target=self._draw)

    def _draw(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._over.is_set():
                rows = connection.execute(
                    "SELECT nextval('notes_id_seq') FROM generate_series(1, 40)"
                )
                self.drawn += [number for (number,) in rows]

    def __enter__(self) -> Drawing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def more(self) -> None:
        """Return when it has drawn some more."""
        at, deadline = len(self.drawn), time.monotonic() + WAIT_S
        while len(self.drawn) < at + 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def environment(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in shop.verbs.environment.items():
            patch.setenv(name, value)
        yield


def test_however_much_is_drawn_meanwhile_no_number_comes_twice(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environment(shop, monkeypatch), Drawing(shop.source) as shops:
        split = open_split(shop.verbs.plan)
        shops.more()
        away, crms = STAYING, list[int]()
        for direction in (Direction.CUTOVER, Direction.ROLLBACK) * 8:
            with open_sides(split, direction, ("crm",), away) as sides:
                renumber(sides, deadline=time.monotonic() + WAIT_S)
                if direction is Direction.ROLLBACK:
                    renumber(sides, deadline=time.monotonic() + WAIT_S, decided=True)
                else:
                    rows = sides.targets["crm"].execute(
                        "SELECT nextval('notes_id_seq') FROM generate_series(1, 100)"
                    )
                    crms = [number for (number,) in rows.fetchall()]
            away = STAYING | {"crm": direction.after}
            shops.more()
            assert not set(crms) & set(shops.drawn)
    assert len(set(shops.drawn)) == len(shops.drawn)


def test_who_has_drawn_and_goes_on_is_not_waited_for_without_end(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environment(shop, monkeypatch), psycopg.connect(shop.source) as slow:
        slow.execute("SELECT nextval('notes_id_seq')")
        with (
            open_sides(open_split(shop.verbs.plan), Direction.CUTOVER, ("crm",), STAYING) as sides,
            pytest.raises(GivenUp, match="notes_id_seq"),
        ):
            renumber(sides, deadline=time.monotonic() + 1)
        # Those who come later are not kept.
        assert shop.value("source", "SELECT nextval('notes_id_seq')") > 0
