"""Measurements against what people would use otherwise; run.py is the command."""
