"""Statements of applications, held against the boundary that a plan draws."""
