"""The states of an order, and which may follow which."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_UPGRADE = (
    """
    CREATE TABLE public.state (
        code text PRIMARY KEY,
        title text NOT NULL,
        step smallint NOT NULL UNIQUE,
        is_initial boolean NOT NULL DEFAULT false,
        is_final boolean NOT NULL DEFAULT false
    )
    """,
    "COMMENT ON COLUMN public.state.step IS 'where on its way an order in this state is'",
    """
    INSERT INTO public.state (code, title, step, is_initial, is_final) VALUES
        ('INITIATED',  'Begun in the shop',                10, true,  false),
        ('SUBMITTED',  'Submitted, waits for a price',     20, true,  false),
        ('QUOTED',     'Has a price, waits for approval',  30, false, false),
        ('APPROVED',   'Approved, waits for production',   40, false, false),
        ('ON_HOLD',    'Stopped, to be gone on with',      45, false, false),
        ('PRODUCTION', 'Is being made',                    50, false, false),
        ('PACKING',    'Made, is being packed',            60, false, false),
        ('SHIPPING',   'On its way to the customer',       70, false, false),
        ('DELIVERED',  'Has arrived',                      80, false, false),
        ('CLOSED',     'Paid and done',                    90, false, true),
        ('CANCELLED',  'Will not be done',                100, false, true)
    """,
    """
    CREATE TABLE public.legal_transition (
        from_state text NOT NULL REFERENCES public.state,
        to_state text NOT NULL REFERENCES public.state,
        reason text NOT NULL,
        PRIMARY KEY (from_state, to_state),
        CHECK (from_state <> to_state)
    )
    """,
    """
    INSERT INTO public.legal_transition (from_state, to_state, reason) VALUES
        ('INITIATED',  'SUBMITTED',  'the customer submits the order'),
        ('INITIATED',  'CANCELLED',  'the customer gives up'),
        ('SUBMITTED',  'QUOTED',     'a price is set'),
        ('SUBMITTED',  'ON_HOLD',    'a question is open'),
        ('SUBMITTED',  'CANCELLED',  'cannot be made, or given up'),
        ('QUOTED',     'SUBMITTED',  'the price is withdrawn'),
        ('QUOTED',     'APPROVED',   'the customer accepts the price'),
        ('QUOTED',     'ON_HOLD',    'a question is open'),
        ('QUOTED',     'CANCELLED',  'the customer declines the price'),
        ('APPROVED',   'PRODUCTION', 'a machine starts'),
        ('APPROVED',   'ON_HOLD',    'payment or material is missing'),
        ('APPROVED',   'CANCELLED',  'cancelled before production'),
        ('PRODUCTION', 'PACKING',    'all parts have passed the quality check'),
        ('PRODUCTION', 'ON_HOLD',    'a machine or material fails'),
        ('PRODUCTION', 'CANCELLED',  'cancelled in production'),
        ('PACKING',    'PRODUCTION', 'a part has to be made again'),
        ('PACKING',    'ON_HOLD',    'a part is missing'),
        ('PACKING',    'SHIPPING',   'the carrier takes over'),
        ('SHIPPING',   'DELIVERED',  'the customer has it'),
        ('SHIPPING',   'PACKING',    'the carrier brings it back'),
        ('DELIVERED',  'CLOSED',     'paid, and the time for complaints is over'),
        ('ON_HOLD',    'SUBMITTED',  'goes on with a new price'),
        ('ON_HOLD',    'QUOTED',     'goes on where it stopped'),
        ('ON_HOLD',    'APPROVED',   'goes on where it stopped'),
        ('ON_HOLD',    'PRODUCTION', 'goes on where it stopped'),
        ('ON_HOLD',    'PACKING',    'goes on where it stopped'),
        ('ON_HOLD',    'CANCELLED',  'will not go on')
    """,
)

_DOWNGRADE = (
    "DROP TABLE public.legal_transition",
    "DROP TABLE public.state",
)


def upgrade() -> None:
    """Make the tables and fill them."""
    for statement in _UPGRADE:
        op.execute(statement.replace(":", "\\:"))


def downgrade() -> None:
    """Drop them."""
    for statement in _DOWNGRADE:
        op.execute(statement)
