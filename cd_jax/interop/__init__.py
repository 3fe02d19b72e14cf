"""Interchange: models of Hugging Face and of T5X, brought in and taken home."""
