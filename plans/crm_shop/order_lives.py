"""What became of each order, and what the three systems made of it.

An order has one true stage.  The shop, the CRM and the MES each tell it in their own
words, which are coarser than the truth but agree with it, except for:

* 3 orders in every 100: one system says something that cannot be true at the same time
  as what the others say (`CONTRADICTORY`).
* 1 order in every 100: one system's history holds a step that is not allowed, for it
  leads out of a state that is final (`ILLEGAL`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from plans.crm_shop.dice import Dice

CONTRADICTORY: Final = frozenset({17, 51, 84})
"""Orders whose number ends in one of these are told in contradictory ways."""

ILLEGAL: Final = frozenset({23})
"""Orders whose number ends in one of these have an illegal step in a history."""

FIRST_DAY: Final = datetime(2015, 7, 1, 8, tzinfo=UTC)
LAST_DAY: Final = datetime(2025, 6, 30, 18, tzinfo=UTC)
OPEN_SHARE: Final = 0.12  # the newest orders; all older ones are closed or cancelled

System = str  # "shop", "crm" or "mes"
Steps = tuple[tuple[str, datetime], ...]  # status, and since when


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an order."""

    product_id: int
    quantity: int
    unit_price_cents: int


@dataclass(frozen=True, slots=True)
class Order:
    """An order with its history in each system; () is a system that does not know it."""

    id: int
    placed_at: datetime
    stage: str
    shop: Steps
    crm: Steps
    mes: Steps
    lines: tuple[Line, ...]

    @property
    def status(self) -> str:
        """What the shop says."""
        return self.shop[-1][0]

    @property
    def net_cents(self) -> int:
        """The sum of the lines."""
        return sum(line.quantity * line.unit_price_cents for line in self.lines)


# What each system says while an order is in a stage; "" where it does not know the order.
_TOLD: Final[Mapping[str, Sequence[Mapping[System, str]]]] = {
    "initiated": [{"shop": "draft"}],
    "submitted": [{"shop": "new", "crm": "incoming"}],
    "quoted": [{"shop": "new", "crm": "quote_sent"}],
    "approved": [
        {"shop": "confirmed", "crm": "approved"},
        {"shop": "paid", "crm": "approved", "mes": "queued"},
    ],
    "production": [
        {"shop": "in_production", "crm": "producing", "mes": "printing"},
        {"shop": "in_production", "crm": "producing", "mes": "postprocessing"},
        {"shop": "in_production", "crm": "producing", "mes": "quality"},
    ],
    "packing": [{"shop": "in_production", "crm": "producing", "mes": "packing"}],
    "shipping": [{"shop": "shipped", "crm": "delivering", "mes": "handed_over"}],
    "delivered": [{"shop": "delivered", "crm": "delivering", "mes": "handed_over"}],
    "closed": [{"shop": "closed", "crm": "won", "mes": "handed_over"}],
    "cancelled": [
        {"shop": "cancelled", "crm": "lost"},
        {"shop": "cancelled", "crm": "lost", "mes": "aborted"},
    ],
    "on_hold": [
        {"shop": "paid", "crm": "on_hold", "mes": "queued"},
        {"shop": "in_production", "crm": "producing", "mes": "blocked"},
    ],
}

# What a system may say instead, so that no stage fits all that is said.
_CONTRADICTIONS: Final[Mapping[str, Sequence[tuple[System, str]]]] = {
    "initiated": [("crm", "approved")],
    "submitted": [("crm", "approved"), ("mes", "queued"), ("shop", "cancelled")],
    "quoted": [("shop", "paid"), ("crm", "lost"), ("mes", "printing")],
    "approved": [("shop", "cancelled"), ("mes", "printing"), ("crm", "incoming")],
    "production": [("shop", "shipped"), ("crm", "lost"), ("shop", "paid")],
    "packing": [("shop", "delivered"), ("crm", "on_hold")],
    "shipping": [("mes", "packing"), ("crm", "producing"), ("shop", "in_production")],
    "delivered": [("mes", "printing"), ("crm", "won")],
    "closed": [("mes", "printing"), ("crm", "delivering"), ("shop", "delivered"), ("crm", "lost")],
    "cancelled": [("mes", "handed_over"), ("crm", "producing"), ("shop", "paid")],
    "on_hold": [("shop", "cancelled"), ("shop", "shipped")],
}

# How each system gets to a status when all goes well ...
_WAYS: Final[Mapping[System, tuple[str, ...]]] = {
    "shop": ("new", "confirmed", "paid", "in_production", "shipped", "delivered", "closed"),
    "crm": ("incoming", "quote_sent", "approved", "producing", "delivering", "won"),
    "mes": ("queued", "printing", "postprocessing", "quality", "packing", "handed_over"),
}
# ... and to those beside the way.
_BYWAYS: Final[Mapping[tuple[System, str], tuple[str, ...]]] = {
    ("shop", "draft"): ("draft",),
    ("shop", "cancelled"): ("new", "confirmed", "cancelled"),
    ("crm", "lost"): ("incoming", "quote_sent", "lost"),
    ("crm", "on_hold"): ("incoming", "quote_sent", "approved", "on_hold"),
    ("mes", "aborted"): ("queued", "aborted"),
    ("mes", "blocked"): ("queued", "printing", "blocked"),
}
# Two states of each system that nothing leads out of.
_FINAL: Final[Mapping[System, tuple[str, str]]] = {
    "shop": ("cancelled", "closed"),
    "crm": ("lost", "won"),
    "mes": ("aborted", "handed_over"),
}
_OPEN_STAGES: Final = tuple(stage for stage in _TOLD if stage not in ("closed", "cancelled"))


def order(number: int, *, orders: int, products: int, seed: int) -> Order:
    """Order `number` of `orders`, which is the same whenever it is asked for."""
    dice = Dice(seed, "order", number)
    placed_at = FIRST_DAY + (LAST_DAY - FIRST_DAY) * (number / orders)
    placed_at = placed_at.replace(microsecond=dice.below(1_000_000))
    stage = _stage(dice, number / orders)
    told = dict(dice.pick(_TOLD[stage]))
    if number % 100 in CONTRADICTORY:
        system, status = dice.pick(_CONTRADICTIONS[stage])
        told[system] = status
    ways = {system: way_to(system, status) for system, status in told.items()}
    if number % 100 in ILLEGAL:
        system = dice.pick(sorted(ways))
        ways[system] = _with_illegal_step(system, ways[system])
    return Order(
        id=number,
        placed_at=placed_at,
        stage=stage,
        shop=_dated(dice, ways.get("shop", ()), placed_at),
        crm=_dated(dice, ways.get("crm", ()), placed_at + timedelta(minutes=5)),
        mes=_dated(dice, ways.get("mes", ()), placed_at + timedelta(days=2)),
        lines=tuple(
            Line(dice.between(1, products), dice.between(1, 20), dice.between(150, 90_000))
            for _ in range(dice.between(1, 3))
        ),
    )


def way_to(system: System, status: str) -> tuple[str, ...]:
    """The statuses through which `system` comes to `status`, all steps being legal."""
    if byway := _BYWAYS.get((system, status)):
        return byway
    way = _WAYS[system]
    return way[: way.index(status) + 1]


def _stage(dice: Dice, age: float) -> str:
    if age > 1 - OPEN_SHARE:
        return dice.pick(_OPEN_STAGES)
    return "cancelled" if dice.chance(0.08) else "closed"


def _with_illegal_step(system: System, way: tuple[str, ...]) -> tuple[str, ...]:
    final, other = _FINAL[system]
    *before, last = way
    return (*before, other if last == final else final, last)


def _dated(dice: Dice, way: Sequence[str], start: datetime) -> Steps:
    steps = []
    at = start
    for status in way:
        steps.append((status, at))
        at += timedelta(seconds=dice.between(1800, 3 * 86400))
    return tuple(steps)
