"""Since when no statement has crossed the boundary."""

from __future__ import annotations

from alembic import op

revision = "control_0002"
down_revision = "control_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, empty."""
    op.execute("""
        CREATE TABLE dbsplit.boundary (
            split text PRIMARY KEY,
            clean_since timestamptz NOT NULL,
            observed_at timestamptz NOT NULL,
            reset_at timestamptz NOT NULL,
            evicted bigint NOT NULL,
            calls jsonb NOT NULL,
            last text NOT NULL
        )
    """)


def downgrade() -> None:
    """Drop it with what it holds."""
    op.execute("DROP TABLE dbsplit.boundary")
