"""Which differences a continuous comparison has told, and not told to be closed."""

from __future__ import annotations

from alembic import op

revision = "control_0035"
down_revision = "control_0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, empty: what is open is told once more."""
    op.execute("""
        CREATE TABLE dbsplit.told_difference (
            split text NOT NULL,
            route text NOT NULL,
            name bytea NOT NULL,
            PRIMARY KEY (split, route, name)
        )
    """)


def downgrade() -> None:
    """Drop it with what it holds."""
    op.execute("DROP TABLE dbsplit.told_difference")
