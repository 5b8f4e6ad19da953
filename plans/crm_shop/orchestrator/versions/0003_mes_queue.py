"""The MES's queue: what is to be made, and pages of it in two orders.

A page begins after the last row of the one before it (keyset), so the hundredth page costs
what the first one does, and no row is left out when others come in.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UPGRADE = (
    # The condition is the same text wherever the queue is read, by which the planner knows that
    # an index holds all that is asked for.
    """
    CREATE INDEX mes_queue_by_priority_idx ON public.order_state (priority, due_order, order_id)
        INCLUDE (state, version, due_at, placed_at, changed_at)
        WHERE state IN ('APPROVED', 'PRODUCTION', 'PACKING', 'ON_HOLD')
    """,
    """
    CREATE INDEX mes_queue_by_due_idx ON public.order_state (due_order, order_id)
        INCLUDE (state, version, priority, due_at, placed_at, changed_at)
        WHERE state IN ('APPROVED', 'PRODUCTION', 'PACKING', 'ON_HOLD')
    """,
    "CREATE INDEX order_state_state_idx ON public.order_state (state, priority, due_order)",
    """
    CREATE VIEW public.mes_queue AS
    SELECT o.order_id, o.state, o.priority, o.due_at, o.version, o.placed_at, o.changed_at
    FROM public.order_state AS o
    WHERE o.state IN ('APPROVED', 'PRODUCTION', 'PACKING', 'ON_HOLD')
    """,
    # Both are plain SQL without settings of their own: only so does the planner see through them.
    # A row's values go in as they came out, a due date that is NULL too; only the first page
    # has no order to begin after.
    """
    CREATE FUNCTION public.mes_queue_page(
        states text[], after_priority integer, after_due timestamptz, after_order_id bigint,
        page_size integer)
    RETURNS SETOF public.mes_queue LANGUAGE sql STABLE AS $body$
        SELECT q.order_id, q.state, q.priority, q.due_at, q.version, q.placed_at, q.changed_at
        FROM public.order_state AS q
        WHERE q.state IN ('APPROVED', 'PRODUCTION', 'PACKING', 'ON_HOLD')
          AND q.state = ANY (states)
          AND (q.priority, q.due_order, q.order_id) > (
              coalesce(after_priority, -1), coalesce(after_due, 'infinity'),
              coalesce(after_order_id, 0))
        ORDER BY q.priority, q.due_order, q.order_id
        LIMIT page_size
    $body$
    """,
    """
    COMMENT ON FUNCTION public.mes_queue_page(text[], integer, timestamptz, bigint, integer) IS
        'the most urgent first, then the first due; the first page is after NULL, NULL, NULL'
    """,
    """
    CREATE FUNCTION public.mes_queue_page_by_due(
        states text[], due_before timestamptz, after_due timestamptz, after_order_id bigint,
        page_size integer)
    RETURNS SETOF public.mes_queue LANGUAGE sql STABLE AS $body$
        SELECT q.order_id, q.state, q.priority, q.due_at, q.version, q.placed_at, q.changed_at
        FROM public.order_state AS q
        WHERE q.state IN ('APPROVED', 'PRODUCTION', 'PACKING', 'ON_HOLD')
          AND q.state = ANY (states)
          AND q.due_order < due_before
          AND (q.due_order, q.order_id) > (
              coalesce(after_due, '-infinity'), coalesce(after_order_id, 0))
        ORDER BY q.due_order, q.order_id
        LIMIT page_size
    $body$
    """,
    """
    COMMENT ON FUNCTION
        public.mes_queue_page_by_due(text[], timestamptz, timestamptz, bigint, integer) IS
        'what is due before a time, the first due first; the first page is after NULL, NULL'
    """,
)

_DOWNGRADE = (
    "DROP FUNCTION public.mes_queue_page_by_due(text[], timestamptz, timestamptz, bigint, integer)",
    "DROP FUNCTION public.mes_queue_page(text[], integer, timestamptz, bigint, integer)",
    "DROP VIEW public.mes_queue",
    "DROP INDEX public.order_state_state_idx",
    "DROP INDEX public.mes_queue_by_due_idx",
    "DROP INDEX public.mes_queue_by_priority_idx",
)


def upgrade() -> None:
    """Make the view, its indexes and its pages."""
    for statement in _UPGRADE:
        op.execute(statement.replace(":", "\\:"))


def downgrade() -> None:
    """Drop them."""
    for statement in _DOWNGRADE:
        op.execute(statement)
