"""Writing the services' schemas as an Alembic environment of their own."""
