"""Where memory and solver meet inside the jitted step: retrieval for a batch, and the contrastive term."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp

from cd_jax.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.losses import contrastive
from cd_jax.memory import retrieval
from cd_jax.memory.negatives import pool, samplers
from cd_jax.memory.negatives.pool import Labels, Pool
from cd_jax.memory.negatives.prior import Prior
from cd_jax.nets.network import Cached
from cd_jax.solver.read import Bound
from cd_jax.step import passages

SCORES = ("sequence", "embedding")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Contrast:
    """The contrastive term of the training loss: one positive update, some negatives, InfoNCE.

    Attributes:
      weight: of the term beside the cross-entropy; 0 switches it off.
      score: `sequence`, the length-normalised log p(u | x) of the solver; or `embedding`, cosine(f(x), g(u)) /
        temperature, both of them means of encoder states.
      sampler: of `negatives.SAMPLERS`; negatives are drawn from the memory, but for `in_batch`.
      num_negatives: drawn for each example.
      hardness: of `bayesian`.
      temperature: of the embeddings' scores, by which negatives are drawn for either form.
      attempts: source examples that the solver attempts before each epoch, with draws at temperature 1: what it says
        before a wrong answer is one more negative of the example, and what it had retrieved teaches the prior.
    """

    weight: NonNegativeFloat = 0.0
    score: str = "embedding"
    sampler: str = "bayesian"
    num_negatives: PositiveInt = 4
    hardness: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 0.1
    attempts: NonNegativeInt = 128

    def __post_init__(self):
        """Raises RequestError where the values do not go together."""
        if self.score not in SCORES:
            raise RequestError(f"Contrast.score={self.score!r} is none of {', '.join(SCORES)}")
        if self.sampler not in samplers.SAMPLERS:
            raise RequestError(f"Contrast.sampler={self.sampler!r} is none of {', '.join(samplers.SAMPLERS)}")
        if self.sampler == "mixed" and self.score == "sequence":
            raise RequestError("Contrast.sampler='mixed' mixes embeddings; bind Contrast.score to 'embedding'")
        if self.weight < 0 or self.temperature <= 0 or self.num_negatives < 1 or self.attempts < 0:
            raise RequestError(
                "Contrast: bind weight and attempts to 0 or more, temperature above 0, num_negatives to 1 or more"
            )

    def check_candidates(self, candidates: int) -> None:
        """Raises RequestError where there are fewer than are to be drawn."""
        if self.num_negatives > candidates:
            where = "batch" if self.sampler == "in_batch" else "memory"
            raise RequestError(
                f"Contrast.num_negatives={self.num_negatives} of a {where} of {candidates} updates; "
                f"bind it to {candidates} or less"
            )

    def draws(self) -> samplers.Sampler:
        """The sampler, as it is bound."""
        if self.sampler == "bayesian":
            return functools.partial(samplers.bayesian, hardness=self.hardness)
        return samplers.SAMPLERS[self.sampler]


class Split(NamedTuple):
    """What a step looks up of the examples that are asked; device arrays.

    Attributes:
      owners: int32 `[examples]`, to whom the memory's own entries are not shown; -1: to nobody.
      prompts: int32 `[examples]`, the same number for the same prompt.
      tasks: int32 `[examples]`.
      answers: int32 `[examples]`.
      updates: int32 `[updates, length]`, tokens.
      texts: int32 `[updates]`, the same number for the same text.
    """

    owners: jax.Array
    prompts: jax.Array
    tasks: jax.Array
    answers: jax.Array
    updates: jax.Array
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

    Attributes:
      store: keys, owners and axes.
      candidates: the updates, and what is known of them.
      split: of the examples that the batch is of.
      states: `[rows, length, embed]`, encoder states of the updates; None where passages hold the prompt.
      taught: None where there is no contrastive term.
    """

    store: retrieval.Store
    candidates: Pool
    split: Split
    states: jax.Array | None
    taught: Taught | None


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
      contrast: adds its term to the loss.
    """

    picked: Callable[[jax.Array | None, int], jax.Array]
    look_up: retrieval.LookUp
    count: int
    ordinals: tuple[tuple[int, ...], ...]
    length: int
    room: int
    queries: str
    contrast: Contrast | None = None

    def __call__(
        self, bound: Bound, batch: dict[str, jax.Array], memory: Memories, key: jax.Array
    ) -> tuple[dict[str, Any], jax.Array, dict[str, jax.Array]]:
        """See `Read`; what is seen: the rows, queries, distances of `retrieval.Retrieved`, and `contexts`."""
        if self.queries == "off" and not self.contrast:
            return batch, jnp.float32(0), {}
        query_key, negatives_key = jax.random.split(key)
        prompts = batch["encoder_input_tokens"][:, 0]
        contexts = bound.pool(prompts)
        seen = {"contexts": jax.lax.stop_gradient(contexts)}
        added = jnp.float32(0)
        if self.contrast:
            added = self.contrast.weight * self._term(bound, prompts, contexts, batch, memory, negatives_key)
        if self.queries != "off":
            found = self._retrieve(seen["contexts"], batch["example"], memory, query_key)
            seen |= found._asdict()
            batch = batch | self._with_memory(prompts, found.rows, memory)
        return batch, added, seen

    # Retrieval

    def _retrieve(self, contexts, examples, memories: Memories, key) -> retrieval.Retrieved:
        picked = self.picked(key if self.queries == "random" else None, len(contexts))
        owners = memories.split.owners[examples]
        return retrieval.retrieve(self.look_up, memories.store, contexts, owners, picked, self.count)

    def _with_memory(self, prompts, rows, memories: Memories) -> dict[str, Any]:
        """The features that change: what is retrieved stands in the passages, or beside them, encoded before."""
        tokens = jnp.where(rows[..., None] < 0, 0, memories.candidates.tokens[rows])
        if memories.states is None:
            ordinals = jnp.array(self.ordinals, jnp.int32)
            return {"encoder_input_tokens": passages.join(prompts, tokens, ordinals, self.length, self.room)}
        states = memories.states[rows]
        batch, count, length, embed = states.shape
        return {"cached": Cached(states.reshape(batch, count * length, embed), tokens.reshape(batch, count * length))}

    # The contrastive term

    def _term(self, bound: Bound, prompts, contexts, batch, memories: Memories, key) -> jax.Array:
        """InfoNCE of the batch, the mean over its rows."""
        contrast, split, taught = self.contrast, memories.split, memories.taught
        assert contrast and taught
        example, update = batch["example"], batch["update"]
        anchors = Labels(split.prompts[example], split.texts[update], split.tasks[example], split.answers[example])
        positives, wrong = split.updates[update], taught.wrong[example]
        candidates = memories.candidates
        if contrast.sampler == "in_batch":
            vectors = jax.lax.stop_gradient(contrastive.normalize(bound.pool(positives)))
            candidates = Pool(vectors, positives, anchors)
        contrast.check_candidates(len(candidates.tokens))
        draw_key, mix_key = jax.random.split(key)
        drawn = pool.draw(
            draw_key, candidates, taught.counts, contexts, anchors, contrast.draws(), contrast.num_negatives,
            contrast.temperature,
        )  # fmt: skip
        texts = _stacked(positives[:, None], candidates.tokens[drawn.candidates], wrong[:, None])
        # What explains the example is no negative, though the solver said it before a wrong answer.
        is_negative = (texts[:, -1] != 0).any(-1) & (texts[:, -1] != texts[:, 0]).any(-1)
        said = jnp.where(is_negative, 0.0, -jnp.inf)[:, None]
        log_weights = jnp.concatenate([drawn.log_weights, said], 1)
        if contrast.score == "sequence":
            scores = _sequence_scores(bound, prompts, texts)
        else:
            vectors = bound.pool(texts.reshape(-1, texts.shape[-1])).reshape(*texts.shape[:2], -1)
            if contrast.sampler == "mixed":
                vectors, log_weights = _with_mixtures(mix_key, contexts, vectors, log_weights)
            scores = contrastive.embedding_scores(contexts, vectors, contrast.temperature)
        positive, others = scores[:, 0], scores[:, 1:]
        if contrast.sampler == "debiased":
            lowest = -1.0 / contrast.temperature if contrast.score == "embedding" else -jnp.inf
            return contrastive.debiased_info_nce(positive, others, log_weights, drawn.mass, lowest).mean()
        return contrastive.info_nce(positive, others, log_weights).mean()


def _stacked(*texts: jax.Array) -> jax.Array:
    """Tokens `[batch, some, lengths that differ]` one after the other."""
    length = max(part.shape[-1] for part in texts)
    return jnp.concatenate([jnp.pad(part, ((0, 0), (0, 0), (0, length - part.shape[-1]))) for part in texts], 1)


def _sequence_scores(bound: Bound, prompts: jax.Array, texts: jax.Array) -> jax.Array:
    """`log p(u | x)` per token: prompts `[batch, length]`, texts `[batch, k, length]` to `[batch, k]`."""
    batch, count, length = texts.shape
    targets = texts.reshape(batch * count, length)
    weights = (targets != 0).astype(jnp.float32)
    nats = bound.token_nats(prompts[:, None], targets)
    return contrastive.sequence_scores(nats, weights).reshape(batch, count)


def _with_mixtures(key, contexts, vectors, log_weights):
    """MoCHi's synthetic negatives after the others, each as heavy as a drawn one, and a quarter more of them."""
    drawn = vectors[:, 1:-1]
    k = drawn.shape[1]
    mix = functools.partial(samplers.mixtures, hardest=min(max(k // 2, 2), k), pairs=k, with_anchor=k // 4)
    synthetic = contrastive.mixed_embeddings(contexts, drawn, jax.vmap(mix)(jax.random.split(key, len(contexts))))
    weights = jnp.broadcast_to(log_weights[:, :1], synthetic.shape[:2])
    return jnp.concatenate([vectors, synthetic], 1), jnp.concatenate([log_weights, weights], 1)
