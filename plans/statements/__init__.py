"""What SQL text touches: which tables and columns each statement reads and writes."""
