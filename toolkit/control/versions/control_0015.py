"""Which parts of a table a comparison has proven equal, so that a killed one goes on."""

from __future__ import annotations

from alembic import op

revision = "control_0015"
down_revision = "control_0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, empty: no comparison is under way."""
    op.execute("""
        CREATE TABLE dbsplit.comparing (
            split text NOT NULL,
            route text NOT NULL,
            direction text NOT NULL,
            epoch bigint NOT NULL,
            since pg_lsn NOT NULL,
            units jsonb NOT NULL,
            began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (split, route, direction)
        )
    """)
    op.execute("""
        CREATE TABLE dbsplit.compared_unit (
            split text NOT NULL,
            route text NOT NULL,
            direction text NOT NULL,
            unit integer NOT NULL,
            rows bigint NOT NULL,
            digest bigint NOT NULL,
            PRIMARY KEY (split, route, direction, unit),
            FOREIGN KEY (split, route, direction) REFERENCES dbsplit.comparing ON DELETE CASCADE
        )
    """)


def downgrade() -> None:
    """Drop them with what they hold."""
    op.execute("DROP TABLE dbsplit.compared_unit, dbsplit.comparing")
