"""The rows of the tables that hang on orders, computed for some orders at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from plans.crm_shop.dice import Dice, uuid_of
from plans.crm_shop.order_lives import Line, Order, Steps

Row = tuple[object, ...]

SHIPMENT_ID_OFFSET: Final = 200_000
JOB_ID_OFFSET: Final = 500_000
"""Ids that differ from the order's, so that no mix-up of the two goes unnoticed."""

MACHINES: Final = 16
MATERIALS: Final = ("PA12", "PA11", "TPU", "PLA", "PETG", "ABS", "RESIN-STD", "RESIN-TGH", "ALU")
_METHODS: Final = ("card", "transfer", "paypal", "invoice")
_SHIPPED: Final = ("shipped", "delivered", "closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the rows of one load are drawn from."""

    seed: int
    orders: int
    customers: int
    products: int
    managers: int
    models: int

    def dice(self, *name: object) -> Dice:
        """Dice of this load."""
        return Dice(self.seed, *name)

    def model_id(self, number: int) -> str:
        """The id of uploaded model `number`, counted from 1."""
        return uuid_of(self.seed, "model", number)


def euros(cents: int) -> str:
    """An amount as numeric takes it."""
    return f"{cents // 100}.{cents % 100:02d}"


def orders(world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`orders`, each with the sum of its lines."""
    for order in batch:
        dice = world.dice("orders", order.id)
        status, since = order.shop[-1]
        address = {
            "name": f"Customer {order.id}",
            "city": dice.pick(("Aachen", "Köln", "Łódź", "Genève", "Wien")),
            "lines": [f"Street {dice.between(1, 200)}"],
        }
        yield (
            order.id,
            f"S-{order.id:08d}",
            dice.between(1, world.customers),
            dice.between(1, world.managers) if dice.chance(0.4) else None,
            status,
            since,
            dice.pick((1, 2, 3, 3, 3, 3, 4, 5)),
            order.placed_at,
            order.placed_at + timedelta(days=dice.between(5, 30)) if dice.chance(0.9) else None,
            json.dumps(address, ensure_ascii=False),
            euros(order.net_cents),
            dice.pick(("0.190", "0.190", "0.070", "0.000")),
            dice.pick((None, None, None, "", "Bitte\tvor 10 Uhr\ndanke… \\o/")),
            since,
        )


def order_items(world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`order_items`."""
    for order in batch:
        dice = world.dice("order_items", order.id)
        for number, line in enumerate(order.lines, 1):
            yield (
                order.id,
                number,
                line.product_id,
                world.model_id(dice.between(1, world.models)) if dice.chance(0.3) else None,
                line.quantity,
                euros(line.unit_price_cents),
                '{"colour": "black", "infill": 0.4}' if dice.chance(0.5) else None,
            )


def order_status_history(_world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`order_status_history`, the shop's."""
    for order in batch:
        for old, new, at in _changes(order.shop):
            yield (order.id, old, new, at, "shop_api")


def payments(world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`payments` of what was paid."""
    for order in batch:
        for status, at in order.shop:
            if status == "paid":
                dice = world.dice("payments", order.id)
                reply = {"reference": f"P{dice.below(10**9):09d}", "risk": dice.below(100) / 100}
                yield (
                    uuid_of(world.seed, "payment", order.id),
                    order.id,
                    dice.pick(_METHODS),
                    euros(order.net_cents),
                    at,
                    json.dumps(reply) if dice.chance(0.7) else None,
                )


def shipments(world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`shipments` of what the shop says has left."""
    for order in batch:
        if order.status in _SHIPPED:
            dice = world.dice("shipments", order.id)
            shipped_at = order.shop[-1][1] - timedelta(hours=dice.between(1, 90))
            arrived = order.status != "shipped"
            yield (
                SHIPMENT_ID_OFFSET + order.id,
                order.id,
                dice.pick(("DHL", "DPD", "UPS", "GLS")),
                [f"{dice.below(10**12):012d}" for _ in range(dice.between(0, 2))],
                shipped_at,
                shipped_at + timedelta(days=dice.between(1, 4)) if arrived else None,
            )


def shipment_items(_world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`shipment_items`: a shipment is the whole order."""
    for order in batch:
        if order.status in _SHIPPED:
            for number, line in enumerate(order.lines, 1):
                yield (SHIPMENT_ID_OFFSET + order.id, order.id, number, line.quantity)


def invoices(_world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`invoices`, numbered like the orders."""
    for order in batch:
        if order.status in _SHIPPED:
            yield (
                f"R{order.placed_at:%Y}",
                order.id,
                order.id,
                order.placed_at.date(),
                euros(order.net_cents),
                euros(order.net_cents + order.net_cents * 19 // 100),
                json.dumps([_invoice_line(line) for line in order.lines]),
                order.status == "closed",
            )


def crm_orders(world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`crm_orders`, what the CRM knows of an order."""
    for order in batch:
        if order.crm:
            dice = world.dice("crm_orders", order.id)
            stage, since = order.crm[-1]
            day = order.placed_at.date()
            yield (
                order.id,
                dice.between(1, world.managers),
                stage,
                since,
                euros(order.net_cents) if dice.chance(0.9) else None,
                dice.pick((None, "empty", f"[{day},)", f"[{day},{day + timedelta(days=30)})")),
                dice.pick((None, None, "calls back", "discount promised\r\nby phone")),
                since,
            )


def crm_order_history(_world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`crm_order_history`, the CRM's."""
    for order in batch:
        for old, new, at in _changes(order.crm):
            yield (order.id, old, new, at, "crm_api")


def production_jobs(world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`production_jobs`, one for each order that the MES knows."""
    for order in batch:
        if order.mes:
            dice = world.dice("production_jobs", order.id)
            state, since = order.mes[-1]
            start = order.mes[0][1]
            total = sum(line.quantity for line in order.lines)
            yield (
                JOB_ID_OFFSET + order.id,
                order.id,
                state,
                since,
                dice.between(1, MACHINES),
                dice.pick(MATERIALS),
                f"[{start},{start + timedelta(hours=dice.between(2, 60))})",
                total,
                total if state in ("packing", "handed_over") else dice.below(total),
                [60, 100, dice.between(20, 300)] if dice.chance(0.5) else None,
                since,
            )


def job_steps(world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`job_steps`, three for each job."""
    for order in batch:
        if order.mes:
            dice = world.dice("job_steps", order.id)
            for number, name in enumerate(("prepare", "build", "finish"), 1):
                minutes = dice.between(10, 2000)
                yield (
                    JOB_ID_OFFSET + order.id,
                    number,
                    name,
                    f"{minutes}.50",
                    f"{minutes + dice.between(-5, 90)}.25" if dice.chance(0.8) else None,
                    [dice.below(1000) / 8, dice.below(1000) / 7] if number == 2 else None,
                )


def production_job_history(_world: World, batch: Sequence[Order]) -> Iterator[Row]:
    """`production_job_history`, the MES's."""
    for order in batch:
        for old, new, at in _changes(order.mes):
            yield (JOB_ID_OFFSET + order.id, order.id, old, new, at, "mes_api")


def _changes(steps: Steps) -> Iterator[tuple[str | None, str, datetime]]:
    old = None
    for new, at in steps:
        yield old, new, at
        old = new


def _invoice_line(line: Line) -> dict[str, object]:
    return {
        "product": line.product_id,
        "quantity": line.quantity,
        "price": line.unit_price_cents / 100,
    }


ORDER_TABLES: Final[
    Sequence[tuple[str, str, Callable[[World, Sequence[Order]], Iterator[Row]]]]
] = (
    (
        "orders",
        "id, number, customer_id, manager_id, status, status_since, priority, placed_at, due_at,"
        " shipping_address, net_total, vat_rate, comment, updated_at",
        orders,
    ),
    (
        "order_items",
        "order_id, line_no, product_id, model_id, quantity, unit_price, options",
        order_items,
    ),
    (
        "order_status_history",
        "order_id, old_status, new_status, changed_at, changed_by",
        order_status_history,
    ),
    ("payments", "id, order_id, method, amount, received_at, provider_reply", payments),
    ("shipments", "id, order_id, carrier, tracking_codes, shipped_at, delivered_at", shipments),
    ("shipment_items", "shipment_id, order_id, line_no, quantity", shipment_items),
    ("invoices", "series, number, order_id, issued_on, net, gross, lines, paid", invoices),
    (
        "crm_orders",
        "order_id, manager_id, stage, stage_since, quoted_amount, quote_valid, remarks, updated_at",
        crm_orders,
    ),
    (
        "crm_order_history",
        "order_id, old_stage, new_stage, changed_at, changed_by",
        crm_order_history,
    ),
    (
        "production_jobs",
        "id, order_id, state, state_since, machine_id, material_code, planned, parts_total,"
        " parts_done, layer_heights_um, updated_at",
        production_jobs,
    ),
    ("job_steps", "job_id, step_no, name, minutes_planned, minutes_taken, readings", job_steps),
    (
        "production_job_history",
        "job_id, order_id, old_state, new_state, changed_at, changed_by",
        production_job_history,
    ),
)
"""Table, the columns that are written, and where their rows come from."""
