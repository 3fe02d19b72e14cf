"""What a step looks up beside its batch: tables on the devices."""

from typing import NamedTuple

import jax

from cd_jax.memory import retrieval
from cd_jax.memory.negatives.pool import Pool
from cd_jax.memory.negatives.prior import Prior


class Split(NamedTuple):
    """What a step looks up of the examples that are asked; device arrays.

    Attributes:
      owners: int32 `[examples]`, to whom the memory's own entries are not shown; -1: to nobody.
      prompts: int32 `[examples]`, the same number for the same prompt.
      tasks: int32 `[examples]`.
      answers: int32 `[examples]`.
      texts: int32 `[lessons]`, the same number for the same text of the update that a lesson is of.
    """

    owners: jax.Array
    prompts: jax.Array
    tasks: jax.Array
    answers: jax.Array
    texts: jax.Array


class Taught(NamedTuple):
    """What the verifier has said of the solver's own attempts; device arrays.

    Attributes:
      counts: of the prior.
      wrong: int32 `[examples, length]`, tokens of what the solver said before a wrong answer; 0 where there is nothing.
    """

    counts: Prior
    wrong: jax.Array


class Memories(NamedTuple):
    """What the step reads beside its batch: a pytree of device arrays that keep their shapes.

    What has a row for each of the memory's lies along the mesh as the memory's `layout` says; the rest is everywhere.

    Attributes:
      store: keys, owners and axes.
      candidates: the updates, and what is known of them; vectors of no dimensions where no term reads them.
      split: of the examples that the batch is of.
      states: `[rows, length, embed]`, encoder states of the updates; None where passages hold the prompt.
      taught: None where there is no contrastive term.
    """

    store: retrieval.Store
    candidates: Pool
    split: Split
    states: jax.Array | None
    taught: Taught | None
