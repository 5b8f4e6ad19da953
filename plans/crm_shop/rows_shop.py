"""The rows of the shop's and the MES's tables that do not hang on orders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from plans.crm_shop.dice import bytes_of, uuid_of
from plans.crm_shop.order_lives import FIRST_DAY, LAST_DAY
from plans.crm_shop.rows_crm import CAMPAIGNS, some_time
from plans.crm_shop.rows_orders import MACHINES, MATERIALS, Row, World, euros

CATEGORIES: Final = 24
MODEL_BYTES: Final = (50_000, 300_000)
_PAGES_FROM: Final = datetime(2023, 10, 1, tzinfo=UTC)
_PAGES_DAYS: Final = 850  # into 2026, so that every partition has rows, the default one too


def categories(world: World) -> Iterator[Row]:
    """`categories`, a tree in which children may be older than their parents."""
    dice = world.dice("categories")
    for number in range(1, CATEGORIES + 1):
        parent_id = None if number % 6 == 0 else (number // 6 + 1) * 6
        title = dice.pick(("Gehäuse", "Gears", "Figures", "Spare parts"))
        yield (number, parent_id, f"c{number}", title)


def products(world: World) -> Iterator[Row]:
    """`products`; a weight that was never taken is not a number."""
    dice = world.dice("products")
    for number in range(1, world.products + 1):
        yield (
            number,
            f"{dice.pick(('PR', 'SP', 'KT'))}-{number:05d}",
            dice.between(1, CATEGORIES),
            f"{dice.pick(('Bracket', 'Gear', 'Case', 'Düse'))} {number}",
            dice.pick((None, "", "printed to order", "fits M3 and M4 screws")),
            [
                tag
                for tag in ("new", "sale", "spare part", 'says "hi", {twice}')
                if dice.chance(0.3)
            ],
            json.dumps({"layers_um": [60, 100], "colour": dice.pick(("black", "white", None))}),
            dice.pick((None, "NaN", f"{dice.below(10**6) / 100}", "12.500")),
            dice.chance(0.9),
            some_time(dice),
        )


def price_lists(_world: World) -> Iterator[Row]:
    """`price_lists`, of which one is always valid."""
    yield (1, "Until 2022", "EUR", "(,2022-01-01)")
    yield (2, "Until 2024", "EUR", "[2022-01-01,2024-07-01)")
    yield (3, "Now", "EUR", "[2024-07-01,)")


def prices(world: World) -> Iterator[Row]:
    """`prices`, in every list for 1 and for 100."""
    dice = world.dice("prices")
    for number in range(1, world.products + 1):
        for price_list in (1, 2, 3):
            cents = dice.between(150, 90_000)
            yield (price_list, number, 1, euros(cents), "0.190")
            yield (price_list, number, 100, euros(cents * 8 // 10), "0.190")


def exchange_rates(world: World) -> Iterator[Row]:
    """`exchange_rates` of the last 400 days, in two currencies."""
    dice = world.dice("exchange_rates")
    for back in range(400):
        day = (LAST_DAY - timedelta(days=back)).date()
        yield (day, "USD", f"1.{dice.below(10**6):06d}")
        yield (day, "PLN", f"4.{dice.below(10**4):04d}")


def accounts(world: World) -> Iterator[Row]:
    """`accounts`, which seven customers in ten have."""
    dice = world.dice("accounts")
    for number in range(1, world.customers + 1):
        if dice.chance(0.7):
            yield (
                uuid_of(world.seed, "account", number),
                number,
                dice.pick(("de-DE", "en-GB", "pl-PL")),
                json.dumps({"newsletter": dice.chance(0.5), "wish list": [dice.below(99)]}),
                some_time(dice),
            )


def addresses(world: World) -> Iterator[Row]:
    """`addresses`, one for each customer."""
    dice = world.dice("addresses")
    for number in range(1, world.customers + 1):
        yield (
            number,
            number,
            dice.pick(("shipping", "billing")),
            [f"Straße {dice.between(1, 99)}", *(["Hinterhaus, 2. OG"] if dice.chance(0.2) else [])],
            f"{dice.below(10**5):05d}",
            dice.pick(("Aachen", "Kraków", "Paris")),
            dice.pick(("DE", "PL", "FR")),
        )


def uploaded_models(world: World) -> Iterator[Row]:
    """`uploaded_models`; the content does not compress, as a zipped mesh does not."""
    dice = world.dice("uploaded_models")
    for number in range(1, world.models + 1):
        sides = [dice.between(1, 3000) / 8 for _ in range(3)]
        yield (
            world.model_id(number),
            dice.between(1, world.customers),
            f"part {number} (final).3mf",
            bytes_of(world.seed, "content", number, size=dice.between(*MODEL_BYTES)),
            f"({sides[0]},{sides[1]},{sides[2]})",
            [0.0, 0.0, 0.0, *sides],
            json.dumps({"triangles": dice.below(10**6), "software": None}),
            dice.below(30),
            some_time(dice),
        )


def cart_count(world: World) -> int:
    """How many carts stand about."""
    return world.orders // 5


def carts(world: World) -> Iterator[Row]:
    """`carts`, some of nobody yet."""
    dice = world.dice("carts")
    for number in range(1, cart_count(world) + 1):
        at = some_time(dice)
        yield (
            uuid_of(world.seed, "cart", number),
            dice.between(1, world.customers) if dice.chance(0.8) else None,
            dice.between(1, CAMPAIGNS) if dice.chance(0.2) else None,
            "EUR",
            at,
            at + timedelta(minutes=dice.below(300)),
        )


def cart_items(world: World) -> Iterator[Row]:
    """`cart_items`, up to four in each cart."""
    dice = world.dice("cart_items")
    for number in range(1, cart_count(world) + 1):
        for position in range(1, dice.between(0, 4) + 1):
            yield (
                uuid_of(world.seed, "cart", number),
                position,
                dice.between(1, world.products),
                world.model_id(dice.between(1, world.models)) if dice.chance(0.2) else None,
                dice.between(1, 9),
                '{"gift": true}' if dice.chance(0.1) else None,
            )


def invoice_series(world: World) -> Iterator[Row]:
    """`invoice_series`, one for each year."""
    for year in range(FIRST_DAY.year, LAST_DAY.year + 1):
        yield (f"R{year}", world.orders)


def page_views(world: World) -> Iterator[Row]:
    """`page_views`, in every partition."""
    dice = world.dice("page_views")
    for number in range(1, world.orders * 3 + 1):
        product_id = dice.between(1, world.products)
        at = _PAGES_FROM + timedelta(
            days=dice.below(_PAGES_DAYS), microseconds=dice.below(86_400_000_000)
        )
        yield (
            number,
            at.date(),
            at,
            dice.between(1, world.customers) if dice.chance(0.4) else None,
            f"/product/{product_id}",
            product_id,
            dice.pick(("Mozilla/5.0", "curl/8", None)),
        )


def materials(_world: World) -> Iterator[Row]:
    """`materials`."""
    for number, code in enumerate(MATERIALS, 1):
        yield (code, f"Material {code}", f"1.0{number}", ["black", "white"][: number % 3])


def machines(_world: World) -> Iterator[Row]:
    """`machines`."""
    for number in range(1, MACHINES + 1):
        maintenance = "{[2025-03-01 06:00+00,2025-03-01 18:00+00),[2025-09-01 06:00+00,)}"
        yield (
            number,
            f"M{number:02d}",
            ("sls", "fdm", "sla", "mill")[number % 4],
            list(MATERIALS[: number % 5]),
            f"({number}00,200.50,)" if number % 7 == 0 else f"({number}00,200.50,300)",
            maintenance if number % 3 == 0 else "{}",
        )


SHOP_TABLES: Final[Sequence[tuple[str, str, Callable[[World], Iterator[Row]]]]] = (
    ("categories", "id, parent_id, slug, title", categories),
    (
        "products",
        "id, sku, category_id, name, description, tags, attributes, weight_g, active, updated_at",
        products,
    ),
    ("price_lists", "id, name, currency, valid", price_lists),
    ("prices", "price_list_id, product_id, min_quantity, net, vat_rate", prices),
    ("exchange_rates", "day, currency, rate", exchange_rates),
    ("accounts", "id, customer_id, locale, settings, created_at", accounts),
    ("addresses", "id, customer_id, kind, lines, postcode, city, country", addresses),
    (
        "uploaded_models",
        "id, customer_id, file_name, content, size, bounding_box, metadata, downloads, uploaded_at",
        uploaded_models,
    ),
    ("carts", "id, customer_id, campaign_id, currency, created_at, updated_at", carts),
    ("cart_items", "cart_id, position, product_id, model_id, quantity, options", cart_items),
    ("invoice_series", "series, last_number", invoice_series),
    (
        "page_views",
        "id, viewed_on, viewed_at, customer_id, path, product_id, agent",
        page_views,
    ),
    ("materials", 'code, title, "densityGPerCm3", colours', materials),
    ("machines", "id, name, kind, materials, build_volume, maintenance", machines),
)
"""Table, the columns that are written, and where their rows come from."""
