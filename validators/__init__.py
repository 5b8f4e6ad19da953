"""Comparing what was carried over, row by row and rule by rule."""
