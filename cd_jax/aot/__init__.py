"""Pods, checked by the compiler of the TPU on a machine that has none."""
