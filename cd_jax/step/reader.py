"""Where memory and solver meet inside the jitted step: retrieval for a batch, and the terms of the loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cd_jax.memory import retrieval
from cd_jax.memory.layout import Layout
from cd_jax.nets.network import Cached
from cd_jax.solver.read import Bound
from cd_jax.step import passages
from cd_jax.step.tables import Memories
from cd_jax.step.terms import Reading, Term


@dataclasses.dataclass(frozen=True)
class Reader:
    """Extends a batch by what the memory holds for it: a `Read` of the solver.

    A static argument of the step: equal ones are compiled once.

    Attributes:
      picked: of the memory, which queries are asked.
      look_up: of the memory's index.
      count: neighbours looked up for each query.
      ordinals: `[passages][ordinal length]`, tokens that stand before a retrieved update, padded with 0.
      length: tokens of a passage.
      room: tokens of an update that are read, at most: the question beside it is never cut.
      queries: `random` or `fixed`; `off` retrieves nothing.
      terms: what is added to the loss.
      layout: of the memory's tables; None where there is no memory.
    """

    picked: Callable[[jax.Array | None, int], jax.Array] | None = None
    look_up: retrieval.LookUp | None = None
    count: int = 0
    ordinals: tuple[tuple[int, ...], ...] = ()
    length: int = 0
    room: int = 0
    queries: str = "off"
    terms: tuple[Term, ...] = ()
    layout: Layout | None = None

    @property
    def losses(self) -> tuple[str, ...]:
        """See `Read`."""
        return tuple(f"{term.name}_loss" for term in self.terms)

    def __call__(
        self, bound: Bound, batch: dict[str, jax.Array], memory: Any, key: jax.Array
    ) -> tuple[dict[str, Any], dict[str, jax.Array], dict[str, jax.Array]]:
        """See `Read`; what is seen: the rows, queries, distances of `retrieval.Retrieved`, and `contexts`."""
        if self.queries == "off" and not self.terms:
            return batch, {}, {}
        query_key, terms_key = jax.random.split(key)
        prompts = batch["encoder_input_tokens"][:, 0]
        contexts = bound.pool(prompts)
        seen = {"contexts": jax.lax.stop_gradient(contexts)}
        reading = Reading(bound, prompts, contexts, batch, memory, self.layout)
        added = {
            name: term.weight * term(reading, jax.random.fold_in(terms_key, i) if i else terms_key)
            for i, (name, term) in enumerate(zip(self.losses, self.terms, strict=True))
        }
        if self.queries != "off":
            found = self._retrieve(seen["contexts"], batch["example"], memory, query_key)
            seen |= found._asdict()
            batch = batch | self._with_memory(prompts, found.rows, memory)
        return batch, added, seen

    # Retrieval

    def _retrieve(self, contexts, examples, memories: Memories, key) -> retrieval.Retrieved:
        assert self.picked and self.look_up and self.layout
        picked = self.picked(key if self.queries == "random" else None, len(contexts))
        owners = memories.split.owners[examples]
        return retrieval.retrieve(self.look_up, memories.store, contexts, owners, picked, self.count, self.layout)

    def _with_memory(self, prompts, rows, memories: Memories) -> dict[str, Any]:
        """The features that change: what is retrieved stands in the passages, or beside them, encoded before."""
        assert self.layout
        tokens = self.layout.take(memories.candidates.tokens, rows)
        if memories.states is None:
            ordinals = jnp.array(self.ordinals, jnp.int32)
            return {"encoder_input_tokens": passages.join(prompts, tokens, ordinals, self.length, self.room)}
        states = self.layout.take(memories.states, rows)
        batch, count, length, embed = states.shape
        return {"cached": Cached(states.reshape(batch, count * length, embed), tokens.reshape(batch, count * length))}
