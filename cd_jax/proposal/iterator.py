"""A deterministic iterator over the source examples (arXiv 2212.11353, section 4)."""

import dataclasses

import gin
import numpy as np

from cd_jax.config.ranges import PositiveInt, Seed


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DeterministicIterator:
    """Every example once an epoch, in an order that depends on the seed and the epoch alone.

    Attributes:
      num_examples: of the source.
      batch_size: examples a step.
      seed: of the order.
    """

    num_examples: PositiveInt
    batch_size: PositiveInt
    seed: Seed

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every example at least once."""
        return -(-self.num_examples // self.batch_size)

    def propose(self, epoch: int) -> np.ndarray:
        """Indices `[steps_per_epoch, batch_size]` of the examples; the last batch is filled from the epoch's start."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_examples)
        return np.resize(order, (self.steps_per_epoch, self.batch_size))
