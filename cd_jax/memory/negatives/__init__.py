"""Negatives of the contrastive term: the pool, the prior, the samplers."""
