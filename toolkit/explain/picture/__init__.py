"""The split as one page: services, their tables, and what crosses between them."""
