"""What the shop does all day, in tables of the shop."""

from __future__ import annotations

import uuid
from datetime import date, timedelta
from typing import Final, LiteralString

from psycopg.types.json import Jsonb

from plans.crm_shop.workload import subjects
from plans.crm_shop.workload.attempt import Attempt, RollBack
from plans.crm_shop.workload.writer import Operation

BATCH_ROWS: Final = 5_000
MODEL_BYTES_MIN, MODEL_BYTES_MAX = 10_000, 200_000  # stored out of line, in many pieces
_FIRST_DAY: Final = date(2024, 6, 1)
_DAYS: Final = 900  # over three partitions, one of them the default


def register(attempt: Attempt) -> None:
    """A customer registers: the shop's columns, an account, an address."""
    [(customer,)] = attempt.add(
        subjects.CUSTOMERS,
        "INSERT INTO customers (email, password_hash, last_login_at) VALUES (%s, %s, now())"
        " RETURNING {}, id",
        f"{attempt.token()}@example.org",
        attempt.token(),
    )
    attempt.add(
        subjects.ACCOUNTS,
        "INSERT INTO accounts (customer_id, settings) VALUES (%s, %s) RETURNING {}",
        customer,
        Jsonb({"theme": "dark", "list": [1, None, "ä"]}),
    )
    attempt.add(
        subjects.ADDRESSES,
        "INSERT INTO addresses (customer_id, lines, postcode, city)"
        " VALUES (%s, %s, '10115', 'Berlin') RETURNING {}",
        customer,
        [attempt.token(), "Hinterhaus, 3. Stock"],
    )


def place_order(attempt: Attempt) -> None:
    """Place an order with its items."""
    lines = attempt.chance.randrange(1, 6)
    [(order,)] = attempt.add(
        subjects.ORDERS,
        "INSERT INTO orders (customer_id, net_total, due_at, comment)"
        " VALUES (%s, %s, now() + interval '10 days', %s) RETURNING {}, id",
        attempt.pick("customers"),
        attempt.chance.randrange(100, 10**6) / 100,
        attempt.token(),
    )
    for line in range(1, lines + 1):
        attempt.add(
            subjects.ORDER_ITEMS,
            "INSERT INTO order_items (order_id, line_no, product_id, quantity, unit_price, options)"
            " VALUES (%s, %s, %s, %s, 9.90, %s) RETURNING {}",
            order,
            line,
            attempt.pick("products"),
            attempt.chance.randrange(1, 9),
            Jsonb({"token": attempt.token()}),
        )


def move_order(attempt: Attempt) -> None:
    """Move an order on, as the shop sees it."""
    _move(attempt, attempt.pick("orders"))


def pay(attempt: Attempt) -> None:
    """A payment comes in: the next invoice number, an invoice, and the order moves on."""
    order, net, gross = attempt.one(
        "SELECT id, net_total, gross_total FROM orders WHERE id = %s", attempt.pick("orders")
    )
    attempt.add(
        subjects.PAYMENTS,
        "INSERT INTO payments (order_id, method, amount, provider_reply)"
        " VALUES (%s, %s, %s, %s) RETURNING {}",
        order,
        attempt.chance.choice(("card", "transfer", "paypal")),
        gross,
        Jsonb({"reference": attempt.token()}),
    )
    _move(attempt, order)
    # Last, because everybody who pays waits for this row.
    series = f"W{attempt.chance.randrange(3)}"
    [(number,)] = attempt.count(
        subjects.INVOICE_NUMBERS,
        "INSERT INTO invoice_series (series, last_number) VALUES (%s, 1)"
        " ON CONFLICT (series) DO UPDATE SET last_number = invoice_series.last_number + 1"
        " RETURNING {}, last_number",
        series,
    )
    attempt.add(
        subjects.INVOICES,
        "INSERT INTO invoices (series, number, order_id, issued_on, net, gross, paid)"
        " VALUES (%s, %s, %s, current_date, %s, %s, true) RETURNING {}",
        *(series, number, order, net, gross),
    )


def ship(attempt: Attempt) -> None:
    """A parcel leaves."""
    attempt.add(
        subjects.SHIPMENTS,
        "INSERT INTO shipments (order_id, carrier, tracking_codes, shipped_at)"
        " VALUES (%s, 'DHL', %s, now()) RETURNING {}",
        attempt.pick("orders"),
        [attempt.token(), attempt.token()],
    )


def edit_profile(attempt: Attempt) -> None:
    """A customer edits the shop's part."""
    attempt.count(
        subjects.EMAILS,
        "UPDATE customers SET marketing_consent = NOT marketing_consent, last_login_at = now(),"
        " email = regexp_replace(email, '([+][0-9]+)?@', concat('+',"
        " coalesce(substring(email from '[+]([0-9]+)@')::int, 0) + 1, '@'))"
        " WHERE id = %s AND email IS NOT NULL RETURNING {}",
        attempt.pick("customers"),
    )


def edit_settings(attempt: Attempt) -> None:
    """A customer changes the language."""
    attempt.count(
        subjects.ACCOUNT_SETTINGS,
        "UPDATE accounts SET locale = %s, settings = settings || jsonb_build_object('revision',"
        " coalesce((settings ->> 'revision')::int, 0) + 1) WHERE id = %s RETURNING {}",
        attempt.chance.choice(("de-DE", "en-GB", "fr-FR")),
        _pick_uuid(attempt, "SELECT id FROM accounts WHERE id >= %s ORDER BY id LIMIT 1"),
    )


def fill_cart(attempt: Attempt) -> None:
    """Put products into a new cart."""
    [(cart,)] = attempt.add(
        subjects.CARTS,
        "INSERT INTO carts (customer_id) VALUES (%s) RETURNING {}, id",
        attempt.pick("customers"),
    )
    for position in range(1, attempt.chance.randrange(2, 6)):
        attempt.add(
            subjects.CART_ITEMS,
            "INSERT INTO cart_items (cart_id, position, product_id) VALUES (%s, %s, %s)"
            " RETURNING {}",
            *(cart, position, attempt.pick("products")),
        )
    attempt.remember("carts", str(cart))


def delete_cart(attempt: Attempt) -> None:
    """Delete a cart with its items."""
    cart = attempt.recall("carts")
    items = "DELETE FROM cart_items WHERE cart_id = %s RETURNING {}"
    attempt.remove(subjects.CART_ITEMS, items, cart)
    attempt.remove(subjects.CARTS, "DELETE FROM carts WHERE id = %s RETURNING {}", cart)


def view_page(attempt: Attempt) -> None:
    """Log a page view, in whatever partition."""
    path, day = f"/{attempt.token()}", _some_day(attempt)
    attempt.add(
        subjects.VIEWS,
        "INSERT INTO page_views (viewed_on, path) VALUES (%s, %s) RETURNING {}",
        *(day, path),
    )
    attempt.remember("views", f"{path} {day}")


def correct_view(attempt: Attempt) -> None:
    """Change a primary key, which may move the row to another partition."""
    old = attempt.recall("views")
    path, day = old.split(" ")
    new_day = date.fromisoformat(day) + timedelta(days=365)
    query = "UPDATE page_views SET viewed_on = %s WHERE path = %s AND viewed_on = %s RETURNING {}"
    attempt.rename(subjects.VIEWS, old, query, new_day, path, day)


def import_views(attempt: Attempt) -> None:
    """Load a batch of page views in one transaction."""
    batch = attempt.token()
    attempt.add_many(
        subjects.VIEW_BATCHES,
        batch,
        "INSERT INTO page_views (viewed_on, path, agent)"
        " SELECT %s::date + n %% 900, '/import/' || n, %s FROM generate_series(1, %s) AS n",
        *(_FIRST_DAY, batch, BATCH_ROWS),
    )


def visit(attempt: Attempt) -> None:
    """Log what a customer does on the web."""
    attempt.add(
        subjects.VISITS,
        "INSERT INTO interactions (channel, customer_id, subject, body)"
        " VALUES ('web', %s, %s, 'looked around') RETURNING {}",
        attempt.pick("customers"),
        attempt.token(),
    )


def upload_model(attempt: Attempt) -> None:
    """A customer uploads a model."""
    attempt.add(
        subjects.MODELS,
        "INSERT INTO uploaded_models (customer_id, file_name, content) VALUES (%s, %s, %s)"
        " RETURNING {}",
        attempt.pick("customers"),
        attempt.token(),
        attempt.chance.randbytes(attempt.chance.randrange(MODEL_BYTES_MIN, MODEL_BYTES_MAX)),
    )


def download_model(attempt: Attempt) -> None:
    """Count a download: the large column next to the counter stays as it is."""
    attempt.count(
        subjects.DOWNLOADS,
        "UPDATE uploaded_models SET downloads = downloads + 1 WHERE id = %s RETURNING {}",
        _pick_uuid(attempt, "SELECT id FROM uploaded_models WHERE id >= %s ORDER BY id LIMIT 1"),
    )


def revise_product(attempt: Attempt) -> None:
    """Weigh a product anew."""
    attempt.count(
        subjects.PRODUCTS,
        "UPDATE products SET weight_g = %s, attributes = attributes || jsonb_build_object("
        "'revision', coalesce((attributes ->> 'revision')::int, 0) + 1) WHERE id = %s"
        " RETURNING {}",
        attempt.chance.randrange(1, 10**6) / 1000,
        attempt.pick("products"),
    )


def change_of_mind(attempt: Attempt) -> None:
    """Place and pay an order, then roll it all back."""
    place_order(attempt)
    pay(attempt)
    raise RollBack


def second_thought(attempt: Attempt) -> None:
    """Fill a cart, and take back to a savepoint what came after it."""
    visit(attempt)
    with attempt.undone():
        place_order(attempt)
        edit_profile(attempt)
    visit(attempt)


def _move(attempt: Attempt, order: int) -> None:
    attempt.count(
        subjects.STATUSES,
        "UPDATE orders SET status = CASE status"
        " WHEN 'draft' THEN 'new' WHEN 'new' THEN 'confirmed' WHEN 'confirmed' THEN 'paid'"
        " WHEN 'paid' THEN 'in_production' WHEN 'in_production' THEN 'shipped'"
        " WHEN 'shipped' THEN 'delivered' WHEN 'delivered' THEN 'closed'"
        " ELSE status END::order_status,"
        " comment = concat('#', coalesce(substring(comment from '^#([0-9]+) ')::int, 0) + 1,"
        " ' ', regexp_replace(comment, '^#[0-9]+ ', '')) WHERE id = %s RETURNING {}",
        order,
    )


def _pick_uuid(attempt: Attempt, query: LiteralString) -> object:
    return attempt.one(query, uuid.UUID(int=attempt.chance.getrandbits(128)))[0]


def _some_day(attempt: Attempt) -> date:
    return _FIRST_DAY + timedelta(days=attempt.chance.randrange(_DAYS))


SHOP_OPERATIONS: Final = (
    Operation("register", 8, register),
    Operation("place order", 14, place_order),
    Operation("move order", 16, move_order),
    Operation("pay", 8, pay),
    Operation("ship", 4, ship),
    Operation("edit profile", 8, edit_profile),
    Operation("edit settings", 4, edit_settings),
    Operation("fill cart", 6, fill_cart),
    Operation("delete cart", 3, delete_cart),
    Operation("view page", 8, view_page),
    Operation("correct view", 3, correct_view),
    Operation("import views", 0.1, import_views, bulk=True),
    Operation("visit", 8, visit),
    Operation("upload model", 2, upload_model),
    Operation("download model", 5, download_model),
    Operation("revise product", 4, revise_product),
    Operation("change of mind", 2, change_of_mind),
    Operation("second thought", 2, second_thought),
)
