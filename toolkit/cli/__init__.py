"""The command line: one module a subject; the verbs print and exit, nobody else does."""
