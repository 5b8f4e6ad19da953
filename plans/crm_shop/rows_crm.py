"""The rows of the CRM's tables, and of those that it shares with the shop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from plans.crm_shop.dice import Dice, bytes_of, uuid_of
from plans.crm_shop.order_lives import FIRST_DAY, LAST_DAY
from plans.crm_shop.rows_orders import Row, World, euros

TEAMS: Final = 5
CAMPAIGNS: Final = 12

_FIRST: Final = ("Anna", "Björn", "Zoë", "Łukasz", "Mehmet", "Siobhán", "Nguyễn", "Иван", "José")
_LAST: Final = ("Müller", "O'Neill", "Øster", "Śliwa", "Çelik", "Smith", "de la Cruz", "Ng")
_TAGS: Final = ("vip", "slow payer", "3d-scan", "resin", "Händler", "newsletter")
_DAYS: Final = (LAST_DAY - FIRST_DAY).days


def some_time(dice: Dice) -> datetime:
    """An instant in the ten years, to the microsecond."""
    return FIRST_DAY + timedelta(days=dice.below(_DAYS), microseconds=dice.below(86_400_000_000))


def person(dice: Dice) -> str:
    """A person's name."""
    return f"{dice.pick(_FIRST)} {dice.pick(_LAST)}"


def teams(_world: World) -> Iterator[Row]:
    """`teams`."""
    for number, territories in enumerate((["DE"], ["DE", "AT"], ["FR", "BE", "LU"], [], ["PL"]), 1):
        yield (number, f"Team {number}", territories)


def managers(world: World) -> Iterator[Row]:
    """`managers`; the first has been there since before the calendar."""
    dice = world.dice("managers")
    for number in range(1, world.managers + 1):
        hired_on = "-infinity" if number == 1 else some_time(dice).date()
        yield (
            number,
            dice.between(1, TEAMS),
            person(dice),
            f"manager{number}@crm.example",
            dice.chance(0.9),
            hired_on,
        )


def users(world: World) -> Iterator[Row]:
    """`"user"`, who may log in."""
    dice = world.dice("user")
    for number in range(1, world.managers + 11):
        yield (
            number,
            f"user{number}",
            dice.pick(("sales", "admin", "support")),
            number if number <= world.managers else None,
            dice.between(0, 9),
            json.dumps({"theme": dice.pick(("dark", "light")), "rows": dice.between(10, 100)}),
        )


def customers(world: World) -> Iterator[Row]:
    """`customers`; of one in 200 only the number is left."""
    dice = world.dice("customers")
    for number in range(1, world.customers + 1):
        registered_at = FIRST_DAY + (LAST_DAY - FIRST_DAY) * (number / world.customers)
        if number % 200 == 0:
            erased = (None, None, None, False, registered_at, registered_at)
            yield (number, *erased, None, None, "unknown", None, None, None, None)
            continue
        yield (
            number,
            f"Customer{number}@Mail{dice.below(50)}.example",
            f"$2b$12${bytes_of(world.seed, 'password', number, size=20).hex()}",
            some_time(dice) if dice.chance(0.8) else None,
            dice.chance(0.3),
            registered_at,
            registered_at + timedelta(days=dice.below(300)),
            person(dice) if dice.chance(0.95) else None,
            f"+49 {dice.below(10**10):010d}" if dice.chance(0.6) else None,
            dice.pick(("unknown", "private", "private", "business", "reseller", "key_account")),
            dice.between(1, world.managers) if dice.chance(0.3) else None,
            euros(dice.below(5_000_000)) if dice.chance(0.2) else None,
            dice.pick((None, None, "", "calls at noon\nnever\tmornings", r"see \\server\x")),
            some_time(dice) if dice.chance(0.5) else None,
        )


def customer_tags(world: World) -> Iterator[Row]:
    """`customer_tags`."""
    dice = world.dice("customer_tags")
    for number in range(1, world.customers + 1):
        for tag in _TAGS:
            if dice.chance(0.09):
                yield (number, tag, some_time(dice))


def campaigns(world: World) -> Iterator[Row]:
    """`campaigns`; the last has no end."""
    dice = world.dice("campaigns")
    for number in range(1, CAMPAIGNS + 1):
        start = some_time(dice)
        end = "" if number == CAMPAIGNS else start + timedelta(days=dice.between(10, 90))
        yield (
            number,
            f"Campaign {number}",
            f"[{start},{end})",
            json.dumps({"segments": ["private"], "budget": {"max": dice.below(9000)}}),
            euros(dice.below(2_000_000)) if dice.chance(0.8) else None,
        )


def campaign_members(world: World) -> Iterator[Row]:
    """`"CampaignMembers"`; a score is any float, also those that are not equal to themselves."""
    dice = world.dice("CampaignMembers")
    for number in range(1, world.customers + 1):
        if dice.chance(0.2):
            score = dice.pick((None, "NaN", "-0", "Infinity", "0.1", f"{dice.below(10**6) / 1000}"))
            yield (dice.between(1, CAMPAIGNS), number, some_time(dice), score)


def leads(world: World) -> Iterator[Row]:
    """`leads`."""
    dice = world.dice("leads")
    for number in range(1, lead_count(world) + 1):
        at = some_time(dice)
        contact = {"name": person(dice), "mail": f"lead{number}@firm.example", "calls": []}
        yield (
            number,
            dice.pick(("web", "fair", "referral", "phone", "import")),
            dice.between(1, world.customers) if dice.chance(0.4) else None,
            dice.between(1, world.products) if dice.chance(0.5) else None,
            dice.between(1, world.managers) if dice.chance(0.8) else None,
            f"Firm {dice.pick(_LAST)} & {dice.pick(_LAST)}",
            json.dumps(contact, ensure_ascii=False),
            dice.between(0, 100) if dice.chance(0.7) else None,
            at,
            at + timedelta(days=dice.below(60)),
        )


def lead_count(world: World) -> int:
    """How many leads there are."""
    return world.orders // 2


def opportunity_count(world: World) -> int:
    """How many opportunities there are."""
    return world.orders * 3 // 10


def opportunities(world: World) -> Iterator[Row]:
    """`opportunities`; those that were won point to the shop's order."""
    dice = world.dice("opportunities")
    for number in range(1, opportunity_count(world) + 1):
        stage = dice.pick(("open", "negotiation", "won", "won", "lost"))
        day = some_time(dice).date()
        yield (
            number,
            dice.between(1, lead_count(world)) if dice.chance(0.8) else None,
            dice.between(1, world.customers) if dice.chance(0.6) else None,
            dice.between(1, world.managers),
            dice.between(1, world.orders) if stage == "won" else None,
            stage,
            euros(dice.below(9_000_000)) if dice.chance(0.9) else None,
            f"{dice.below(1001) / 1000:.3f}" if dice.chance(0.9) else None,
            f"[{day},{day + timedelta(days=dice.between(1, 99))})",
            datetime(day.year, day.month, day.day, tzinfo=UTC),
        )


def opportunity_items(world: World) -> Iterator[Row]:
    """`opportunity_items`, two for each opportunity."""
    dice = world.dice("opportunity_items")
    for number in range(1, opportunity_count(world) + 1):
        first = dice.between(1, world.products - 1)
        for product_id in (first, first + 1):
            yield (number, product_id, dice.pick(("1", "2.50", "1e3", "0.000001")), "0.050")


def interactions(world: World) -> Iterator[Row]:
    """`interactions`, half of them on the web; a few are very long."""
    dice = world.dice("interactions")
    for number in range(1, world.orders * 2 + 1):
        channel = dice.pick(("phone", "email", "visit", "web", "web", "web"))
        body = dice.pick((None, "asks for a price", "angry", "„Wann kommt's?“"))
        yield (
            number,
            channel,
            dice.between(1, world.customers),
            dice.between(1, world.managers) if channel != "web" else None,
            dice.between(1, lead_count(world)) if dice.chance(0.1) else None,
            dice.between(1, world.orders) if dice.chance(0.3) else None,
            f"{channel} {number}",
            bytes_of(world.seed, "body", number, size=4000).hex() if number % 500 == 0 else body,
            some_time(dice),
        )


def tickets(world: World) -> Iterator[Row]:
    """`tickets`."""
    dice = world.dice("tickets")
    for number in range(1, world.orders // 5 + 1):
        at = some_time(dice)
        yield (
            uuid_of(world.seed, "ticket", number),
            dice.between(1, world.customers),
            dice.between(1, world.orders) if dice.chance(0.7) else None,
            dice.pick(("open", "waiting", "solved", "solved", "solved")),
            dice.chance(0.1),
            dice.pick(("part broken", "wrong colour", "invoice?", "Größe passt nicht")),
            at,
            at + timedelta(hours=dice.below(400)),
        )


def ticket_messages(world: World) -> Iterator[Row]:
    """`ticket_messages`, one to four for each ticket."""
    dice = world.dice("ticket_messages")
    for number in range(1, world.orders // 5 + 1):
        at = some_time(dice)
        for position in range(1, dice.between(1, 4) + 1):
            yield (
                uuid_of(world.seed, "ticket", number),
                position,
                "customer" if position % 2 else "support",
                dice.pick(("Hello?", "We look into it.", "Danke!\n\n-- \nsent from a phone")),
                at + timedelta(hours=position),
            )


def audit_log(world: World) -> Iterator[Row]:
    """`audit_log`; some rows are there twice."""
    dice = world.dice("audit_log")
    for number in range(1, opportunity_count(world) + 1):
        entry = (
            some_time(dice),
            "crm_api",
            dice.pick(("insert", "update")),
            f"opportunity {number}",
            json.dumps({"stage": "open", "amount": None}),
        )
        yield entry
        if number % 50 == 0:
            yield entry


CRM_TABLES: Final[Sequence[tuple[str, str, Callable[[World], Iterator[Row]]]]] = (
    ("teams", "id, name, territories", teams),
    ("managers", 'id, team_id, full_name, email, "isActive", hired_on', managers),
    ("user", 'id, login, "group", manager_id, "order", preferences', users),
    (
        "customers",
        "id, email, password_hash, last_login_at, marketing_consent, registered_at, updated_at,"
        " full_name, phone, segment, manager_id, credit_limit, notes, crm_updated_at",
        customers,
    ),
    ("customer_tags", "customer_id, tag, added_at", customer_tags),
    ("campaigns", "id, name, period, audience, budget", campaigns),
    ("CampaignMembers", '"campaignId", "customerId", "joinedAt", "Score"', campaign_members),
    (
        "leads",
        "id, source, customer_id, product_id, manager_id, company, contact, score, created_at,"
        " updated_at",
        leads,
    ),
    (
        "opportunities",
        "id, lead_id, customer_id, manager_id, order_id, stage, amount, probability,"
        " expected_close, updated_at",
        opportunities,
    ),
    ("opportunity_items", "opportunity_id, product_id, quantity, discount", opportunity_items),
    (
        "interactions",
        "id, channel, customer_id, manager_id, lead_id, order_id, subject, body, happened_at",
        interactions,
    ),
    (
        "tickets",
        "id, customer_id, order_id, status, urgent, subject, opened_at, updated_at",
        tickets,
    ),
    ("ticket_messages", "ticket_id, position, author, body, written_at", ticket_messages),
    ("audit_log", "logged_at, actor, action, subject, detail", audit_log),
)
"""Table, the columns that are written, and where their rows come from."""
