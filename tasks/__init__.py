"""SeqIO tasks and mixtures. Importing this package registers those that need no files; see `catalogue.register`."""

from cd_jax.tasks.catalogue import Catalogue, register
from cd_jax.tasks.sample import Sample

__all__ = ["Catalogue", "Sample", "register"]

register()
