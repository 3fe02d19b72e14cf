"""Nearest-neighbour search: on the devices, on the host."""
