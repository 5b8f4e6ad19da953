"""What `dbsplit plan render` copies as it is: the environment in which Alembic runs."""
