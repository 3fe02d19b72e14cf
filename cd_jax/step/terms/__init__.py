"""Terms of the loss beside the cross-entropy, one file each.

A term is a frozen dataclass that gin can bind into `Agent.terms`: hashable, as equal ones are compiled once. It has a
`name`, a `weight` and what `Term` calls; a weight of 0 leaves it out.
"""

from typing import Any, NamedTuple, Protocol

import jax

from cd_jax.memory.layout import Layout
from cd_jax.solver.read import Bound


class Reading(NamedTuple):
    """What a term reads inside the function that is differentiated.

    Attributes:
      bound: the solver with the parameters of this step; gradients flow through it.
      prompts: int32 `[batch, length]`, tokens.
      contexts: float32 `[batch, embed]`, f(x) of the prompts.
      batch: features of the rows: of the converter, and `example`, `lesson`, int32 `[batch]`, and `positive`, int32
        `[batch, length]`, tokens of the update that the lesson is of.
      memories: `reader.Memories`; None where the agent has no memory.
      layout: of the memory's tables, static; None where there is no memory.
    """

    bound: Bound
    prompts: jax.Array
    contexts: jax.Array
    batch: dict[str, jax.Array]
    memories: Any
    layout: Layout | None = None


class Term(Protocol):
    """A term of the loss.

    Attributes:
      name: of its metric, `<name>_loss`.
      weight: with which it is added; 0 leaves it out.
    """

    name: str
    weight: float

    def __call__(self, reading: Reading, key: jax.Array) -> jax.Array:
        """The term, without its weight: a scalar, the mean over the rows.

        Args:
          reading: see `Reading`.
          key: for what is drawn; another one at every step, for every microbatch and for every term.
        """
        ...
