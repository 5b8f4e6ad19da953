"""Every difference that the last comparison of a route found, and how far changes are known."""

from __future__ import annotations

from alembic import op

revision = "control_0020"
down_revision = "control_0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; a route's rows are replaced by its next comparison."""
    op.execute(
        """
        CREATE TABLE dbsplit.difference (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            split text NOT NULL,
            route text NOT NULL,
            direction text NOT NULL,
            found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            key jsonb,
            how text NOT NULL,
            rows bigint NOT NULL,
            columns jsonb NOT NULL,
            written_by text NOT NULL,
            written_at timestamptz,
            cause text NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX ON dbsplit.difference (split, route)")
    # Up to where what has changed was forgotten: a script that is older must not run.
    op.execute("ALTER TABLE dbsplit.tracked ADD COLUMN forgotten pg_lsn")


def downgrade() -> None:
    """Drop it with what it holds."""
    op.execute("ALTER TABLE dbsplit.tracked DROP COLUMN forgotten")
    op.execute("DROP TABLE dbsplit.difference")
