"""The networks, numerics only."""
