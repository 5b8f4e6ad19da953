"""Rules: what must hold of a service's rows, generated from its constraints or written by hand.

A rule is a SELECT of the rows that break it.  Rules are run as Great Expectations suites,
by checkpoint.  They say whether data makes sense; whether two sides have the same rows is
the comparison's to say.
"""
