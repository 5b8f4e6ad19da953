"""The whole job on servers of its own: what `dbsplit demo` shows."""
