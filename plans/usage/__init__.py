"""What applications do with the tables: read from statistics, logs and source code."""
