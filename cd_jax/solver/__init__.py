"""Solver policy: x (and what memory holds of it) to a chain of reasoning and an answer."""
