"""How fast an operator allows rows to be moved."""

from __future__ import annotations

from alembic import op

revision = "control_0014"
down_revision = "control_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, empty: as fast as it goes."""
    op.execute("""
        CREATE TABLE dbsplit.throttle (
            split text PRIMARY KEY,
            paused boolean NOT NULL,
            bytes_per_s bigint,
            set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            set_by text NOT NULL
        )
    """)


def downgrade() -> None:
    """Drop it with what it holds."""
    op.execute("DROP TABLE dbsplit.throttle")
