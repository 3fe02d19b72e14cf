"""Verifier policy: scores an answer against the expected observation, 0..1."""
