"""Owners for tables, proposed from evidence."""
