"""Filters, a family a file: which updates are not worth learning, and why (see `filters.filter`)."""
