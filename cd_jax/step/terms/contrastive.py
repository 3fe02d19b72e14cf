"""The contrastive term: InfoNCE of the update that a lesson is of, against negatives drawn from the memory."""

import dataclasses
import functools
from typing import ClassVar

import gin
import jax
import jax.numpy as jnp

from cd_jax.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.losses import contrastive
from cd_jax.memory.negatives import pool, samplers
from cd_jax.memory.negatives.pool import Labels, Pool
from cd_jax.solver.read import Bound
from cd_jax.step.terms import Reading

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

    name: ClassVar[str] = "contrastive"

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

    def __call__(self, reading: Reading, key: jax.Array) -> jax.Array:
        """InfoNCE of the batch, the mean over its rows."""
        bound, prompts, contexts, batch, memories, layout = reading
        split, taught = memories.split, memories.taught
        example, lesson = batch["example"], batch["lesson"]
        anchors = Labels(split.prompts[example], split.texts[lesson], split.tasks[example], split.answers[example])
        positives, wrong = batch["positive"], taught.wrong[example]
        candidates = memories.candidates
        if self.sampler == "in_batch":
            vectors = jax.lax.stop_gradient(contrastive.normalize(bound.pool(positives)))
            # The batch is no table of the memory.
            candidates, layout = Pool(vectors, positives, anchors), None
        self.check_candidates(layout.capacity if layout else len(candidates.tokens))
        draw_key, mix_key = jax.random.split(key)
        drawn = pool.draw(
            draw_key, candidates, taught.counts, contexts, anchors, self.draws(), self.num_negatives,
            self.temperature, layout,
        )  # fmt: skip
        tokens, rows = candidates.tokens, drawn.candidates
        texts = _stacked(positives[:, None], layout.take(tokens, rows) if layout else tokens[rows], wrong[:, None])
        # What explains the example is no negative, though the solver said it before a wrong answer.
        is_negative = (texts[:, -1] != 0).any(-1) & (texts[:, -1] != texts[:, 0]).any(-1)
        said = jnp.where(is_negative, 0.0, -jnp.inf)[:, None]
        log_weights = jnp.concatenate([drawn.log_weights, said], 1)
        if self.score == "sequence":
            scores = _sequence_scores(bound, prompts, texts)
        else:
            vectors = bound.pool(texts.reshape(-1, texts.shape[-1])).reshape(*texts.shape[:2], -1)
            if self.sampler == "mixed":
                vectors, log_weights = _with_mixtures(mix_key, contexts, vectors, log_weights)
            scores = contrastive.embedding_scores(contexts, vectors, self.temperature)
        positive, others = scores[:, 0], scores[:, 1:]
        if self.sampler == "debiased":
            lowest = -1.0 / self.temperature if self.score == "embedding" else -jnp.inf
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
