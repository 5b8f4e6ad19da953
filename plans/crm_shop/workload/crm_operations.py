"""What the CRM does all day, in tables of the CRM."""

from __future__ import annotations

from typing import Final

from psycopg.types.json import Jsonb

from plans.crm_shop.workload import subjects
from plans.crm_shop.workload.attempt import Attempt, RollBack
from plans.crm_shop.workload.writer import Operation


def log_call(attempt: Attempt) -> None:
    """Note a talk with a customer, anywhere but on the web."""
    attempt.add(
        subjects.CALLS,
        "INSERT INTO interactions (channel, customer_id, subject, body)"
        " VALUES (%s, %s, %s, %s) RETURNING {}",
        attempt.chance.choice(("phone", "email", "visit")),
        attempt.pick("customers"),
        attempt.token(),
        attempt.chance.choice((None, "asked for a discount", "wants it — „schnell“, in 2 days")),
    )


def edit_customer(attempt: Attempt) -> None:
    """Edit the CRM's part of a customer."""
    attempt.count(
        subjects.CUSTOMER_NOTES,
        "UPDATE customers SET segment = %s, phone = %s, notes = concat('#',"
        " coalesce(substring(notes from '^#([0-9]+) ')::int, 0) + 1, ' ',"
        " regexp_replace(notes, '^#[0-9]+ ', ''))"
        " WHERE id = %s RETURNING {}",
        attempt.chance.choice(("private", "business", "reseller")),
        f"+49 30 {attempt.chance.randrange(10**7):07}",
        attempt.pick("customers"),
    )


def new_lead(attempt: Attempt) -> None:
    """Somebody is interested."""
    attempt.add(
        subjects.LEADS,
        "INSERT INTO leads (source, company, contact, score) VALUES (%s, %s, %s, %s) RETURNING {}",
        attempt.chance.choice(("web", "fair", "referral", "phone")),
        attempt.token(),
        Jsonb({"name": "Zoë O'Neill", "calls": []}),
        attempt.chance.randrange(101),
    )


def call_lead(attempt: Attempt) -> None:
    """Note a lead's new telephone number."""
    attempt.count(
        subjects.LEAD_CONTACTS,
        "UPDATE leads SET contact = contact || jsonb_build_object('phone', %s::text, 'revision',"
        " coalesce((contact ->> 'revision')::int, 0) + 1) WHERE id = %s RETURNING {}",
        f"+49 30 {attempt.chance.randrange(10**7):07}",
        attempt.pick("leads"),
    )


def open_opportunity(attempt: Attempt) -> None:
    """Open an opportunity, which a table without a key logs."""
    attempt.add(
        subjects.OPPORTUNITIES,
        "INSERT INTO opportunities (customer_id, manager_id, amount, probability)"
        " VALUES (%s, %s, %s, 0.25) RETURNING {}",
        attempt.pick("customers"),
        attempt.pick("managers"),
        attempt.chance.randrange(100, 10**6) / 100,
    )
    attempt.add(
        subjects.AUDIT,
        "INSERT INTO audit_log (action, subject, detail) VALUES ('open', %s, %s) RETURNING {}",
        attempt.token(),
        Jsonb({"by": "workload", "share": 0.25}),
    )


def move_stage(attempt: Attempt) -> None:
    """Move an order on, as the CRM sees it."""
    attempt.count(
        subjects.STAGES,
        "UPDATE crm_orders SET stage = CASE stage"
        " WHEN 'incoming' THEN 'quote_sent' WHEN 'quote_sent' THEN 'approved'"
        " WHEN 'approved' THEN 'producing' WHEN 'producing' THEN 'delivering'"
        " WHEN 'delivering' THEN 'won' WHEN 'on_hold' THEN 'approved'"
        " ELSE stage END::crm_order_stage,"
        " quoted_amount = coalesce(quoted_amount, 0) + 1, remarks = concat('#',"
        " coalesce(substring(remarks from '^#([0-9]+) ')::int, 0) + 1, ' ',"
        " regexp_replace(remarks, '^#[0-9]+ ', ''))"
        " WHERE order_id = %s RETURNING {}",
        attempt.pick("crm_orders", "order_id"),
    )


def open_ticket(attempt: Attempt) -> None:
    """A customer complains, at some length."""
    [(ticket,)] = attempt.add(
        subjects.TICKETS,
        "INSERT INTO tickets (customer_id, urgent, subject) VALUES (%s, %s, %s) RETURNING {}, id",
        attempt.pick("customers"),
        attempt.chance.random() < 0.1,
        attempt.token(),
    )
    for position in range(1, attempt.chance.randrange(2, 5)):
        attempt.add(
            subjects.MESSAGES,
            "INSERT INTO ticket_messages (ticket_id, position, author, body)"
            " VALUES (%s, %s, 'customer', %s) RETURNING {}",
            ticket,
            position,
            attempt.token(),
        )


def tag_customer(attempt: Attempt) -> None:
    """Tag a customer."""
    tag = attempt.token()
    attempt.add(
        subjects.TAGS,
        "INSERT INTO customer_tags (customer_id, tag) VALUES (%s, %s) RETURNING {}",
        attempt.pick("customers"),
        tag,
    )
    attempt.remember("tags", tag)


def rename_tag(attempt: Attempt) -> None:
    """Change a part of a primary key."""
    old, new = attempt.recall("tags"), attempt.token()
    query = "UPDATE customer_tags SET tag = %s WHERE tag = %s RETURNING {}"
    attempt.rename(subjects.TAGS, old, query, new, old)
    attempt.remember("tags", new)


def untag_customer(attempt: Attempt) -> None:
    """Delete a tag."""
    query = "DELETE FROM customer_tags WHERE tag = %s RETURNING {}"
    attempt.remove(subjects.TAGS, query, attempt.recall("tags"))


def change_of_mind(attempt: Attempt) -> None:
    """Note a call and edit the customer, then roll it all back."""
    log_call(attempt)
    edit_customer(attempt)
    raise RollBack


def second_thought(attempt: Attempt) -> None:
    """Note a call, and take back to a savepoint what came after it."""
    log_call(attempt)
    with attempt.undone():
        new_lead(attempt)
        edit_customer(attempt)
    log_call(attempt)


CRM_OPERATIONS: Final = (
    Operation("log call", 20, log_call),
    Operation("edit customer", 14, edit_customer),
    Operation("new lead", 8, new_lead),
    Operation("call lead", 8, call_lead),
    Operation("open opportunity", 8, open_opportunity),
    Operation("move stage", 20, move_stage),
    Operation("open ticket", 6, open_ticket),
    Operation("tag customer", 5, tag_customer),
    Operation("rename tag", 3, rename_tag),
    Operation("untag customer", 2, untag_customer),
    Operation("change of mind", 3, change_of_mind),
    Operation("second thought", 3, second_thought),
)
