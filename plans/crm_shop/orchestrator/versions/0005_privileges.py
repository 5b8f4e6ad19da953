"""What the role `orchestrator` may do: move orders, and publish.

Roles belong to the server and not to this database, so the role is not made here; where it
does not exist, nothing is granted.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UPGRADE = """
    DO $body$
    BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'orchestrator') THEN
            GRANT USAGE ON SCHEMA public TO orchestrator;
            GRANT SELECT ON ALL TABLES IN SCHEMA public TO orchestrator;
            GRANT INSERT (order_id, state, priority, due_at, placed_at),
                  UPDATE (state, version, priority, due_at)
                ON public.order_state TO orchestrator;
            GRANT UPDATE (published_at), DELETE ON public.outbox TO orchestrator;
        END IF;
    END
    $body$
"""

_DOWNGRADE = """
    DO $body$
    BEGIN
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'orchestrator') THEN
            REVOKE ALL ON ALL TABLES IN SCHEMA public FROM orchestrator;
            REVOKE UPDATE (published_at) ON public.outbox FROM orchestrator;
            REVOKE USAGE ON SCHEMA public FROM orchestrator;
        END IF;
    END
    $body$
"""


def upgrade() -> None:
    """Grant, where there is the role."""
    op.execute(_UPGRADE.replace(":", "\\:"))


def downgrade() -> None:
    """Revoke."""
    op.execute(_DOWNGRADE.replace(":", "\\:"))
