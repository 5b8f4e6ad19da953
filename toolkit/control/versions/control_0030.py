"""Stopping the stream at a position, and what a comparison's result stands for."""

from __future__ import annotations

from alembic import op

revision = "control_0030"
down_revision = "control_0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, empty: nobody wants the stream to stop."""
    op.execute("""
        CREATE TABLE dbsplit.stop (
            split text NOT NULL,
            leader text NOT NULL,
            state text NOT NULL,
            before pg_lsn,
            until timestamptz NOT NULL,
            PRIMARY KEY (split, leader)
        )
    """)
    # Only who began a comparison may note what is proven of it.
    op.execute("ALTER TABLE dbsplit.comparing ADD COLUMN run uuid")
    # "live", or "position": both sides were read at it.
    op.execute("ALTER TABLE dbsplit.validated ADD COLUMN proof text NOT NULL DEFAULT 'live'")
    op.execute("ALTER TABLE dbsplit.validated ADD COLUMN equal_at timestamptz")
    op.execute("ALTER TABLE dbsplit.validated ADD COLUMN equal_since pg_lsn")


def downgrade() -> None:
    """Drop them with what they hold."""
    op.execute(
        "ALTER TABLE dbsplit.validated DROP COLUMN proof, DROP COLUMN equal_at,"
        " DROP COLUMN equal_since"
    )
    op.execute("ALTER TABLE dbsplit.comparing DROP COLUMN run")
    op.execute("DROP TABLE dbsplit.stop")
