"""Proposal policy: yields the next task (x, y)."""
