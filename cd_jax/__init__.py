"""Contrastive distillation in JAX (Lengerich et al. 2022, arXiv 2212.11353)."""
