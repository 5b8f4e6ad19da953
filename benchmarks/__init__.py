"""Measurements against what people would use otherwise, each a command.

They are copy, stream, compare, catalog and statements.
"""
