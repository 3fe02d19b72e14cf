"""Decoding: greedy, sampling and beam search, with keys and values of attention kept between steps.

Several samples or beams of an example share the encoder's keys and values, which are computed and kept once. The loop
ends when every row has ended.
"""

import dataclasses
import functools
from typing import Any

import gin
import jax
import jax.numpy as jnp

from cd_jax.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Share
from cd_jax.errors import RequestError
from cd_jax.nets.layers import DecoderLayer
from cd_jax.nets.network import PAD_ID, T5, Cached

EOS_ID = 1
_NEVER = -1e9


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the decoder's tokens are chosen.

    Attributes:
      temperature: divides the logits before a token is drawn; 0: the most probable token, always.
      top_k: tokens are drawn from the so many most probable ones; 0: from all.
      top_p: tokens are drawn from the most probable ones whose probabilities just reach this sum
        (arXiv 1904.09751); 1: from all.
      num_samples: generations of an example, drawn apart from one another.
      num_beams: of beam search, which draws nothing; 1: no beam search.
      length_penalty: beams are compared by `log p / length ** length_penalty`, as in Hugging Face.
    """

    temperature: NonNegativeFloat = 0.0
    top_k: NonNegativeInt = 0
    top_p: Share = 1.0
    num_samples: PositiveInt = 1
    num_beams: PositiveInt = 1
    length_penalty: float = 1.0

    def __post_init__(self):
        """Raises RequestError where the values do not go together."""
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise RequestError("Decoding: bind temperature and top_k to 0 or more, and top_p to more than 0, at most 1")
        if min(self.num_samples, self.num_beams) < 1:
            raise RequestError("Decoding: bind num_samples and num_beams to 1 or more")
        if self.num_samples > 1 and (self.temperature == 0 or self.num_beams > 1):
            raise RequestError("Decoding.num_samples > 1 wants a temperature above 0 and num_beams = 1")
        if self.num_beams > 1 and self.temperature > 0:
            raise RequestError("Decoding.num_beams > 1 draws nothing; leave temperature at 0")

    @property
    def rows(self) -> int:
        """Generations of an example."""
        return max(self.num_samples, self.num_beams)


class _Decoder:
    """The network, one position at a time."""

    def __init__(self, network: T5, params: Any, tokens: jax.Array, cached: Cached | None, max_length: int, rows: int):
        """Encodes what the decoder attends to.

        Args:
          network: the solver's.
          params: its parameters.
          tokens: passages `[batch, passages, length]`.
          cached: states that are read beside the passages, or None.
          max_length: room for tokens; decides the shapes.
          rows: generations of each example.
        """
        config = network.config
        self.batch, self.rows = len(tokens), rows
        self._apply = functools.partial(network.apply, {"params": params})
        self._layer, self.max_length = DecoderLayer(config), max_length
        stacked = params["decoder"]["layers"]
        # Out of the stack, before the loop: inside, each step would copy them.
        self._layers = [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(config.num_decoder_layers)]
        context: Any = self._apply(tokens, cached, method="context")
        encoded, mask = context
        started = [self._layer.apply({"params": p}, encoded, max_length, method="start") for p in self._layers]
        self._cross = [cross for cross, _ in started]
        self.cache = [jax.tree.map(lambda x: jnp.repeat(x, rows, 0), own) for _, own in started]
        self._cross_bias = mask[:, None, None]

    def step(self, token: jax.Array, cache: list, position: jax.Array) -> tuple[Any, list]:
        """Tokens `[batch * rows]` at a position to float32 logits `[batch * rows, vocab]`, and the cache after it."""
        x = self._apply(token, method="embed")
        bias = self._apply(position, self.max_length, method="bias")
        new = []
        for params, cross, own in zip(self._layers, self._cross, cache, strict=True):
            given = (x, cross, own, position, bias, self._cross_bias)
            x, own = self._layer.apply({"params": params}, *given, method="step")
            new.append(own)
        return self._apply(x, method="finish"), new


def choose(logits: jax.Array, method: Decoding, key: jax.Array) -> jax.Array:
    """Draws a token `[rows]` for each of the logits `[rows, vocab]`; the most probable where the temperature is 0."""
    if method.temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / method.temperature
    if method.top_k:
        lowest = jax.lax.top_k(logits, min(method.top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    if method.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ordered), -1) - jax.nn.softmax(ordered)
        lowest = jnp.where(before < method.top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def sample(decoder: _Decoder, limit: jax.Array, method: Decoding, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws generations, or writes the most probable tokens.

    Args:
      decoder: of `method.num_samples` rows.
      limit: tokens at most, the end of sequence among them.
      method: how tokens are chosen.
      seed: of the draws.

    Returns:
      Tokens `[batch, num_samples, max_length]`, 0 after the end of sequence, and the logarithm of their probability
      under the network (whatever the temperature), `[batch, num_samples]`.
    """
    rows = decoder.batch * decoder.rows

    def unfinished(carry):
        position, _, _, done, _, _ = carry
        return (position < limit) & ~done.all()

    def step(carry):
        position, token, generated, done, score, cache = carry
        logits, cache = decoder.step(token, cache, position)
        token = choose(logits, method, jax.random.fold_in(jax.random.key(seed), position))
        token = jnp.where(done, PAD_ID, token)
        chosen = jnp.take_along_axis(logits, token[:, None], -1)[:, 0] - jax.nn.logsumexp(logits, -1)
        generated = jax.lax.dynamic_update_slice(generated, token[:, None], (0, position))
        score += jnp.where(done, 0.0, chosen)
        return position + 1, token, generated, done | (token == EOS_ID), score, cache

    start = jnp.zeros((rows, decoder.max_length), jnp.int32)
    carry = (jnp.int32(0), start[:, 0], start, jnp.zeros(rows, bool), jnp.zeros(rows, jnp.float32), decoder.cache)
    _, _, generated, _, score, _ = jax.lax.while_loop(unfinished, step, carry)
    shape = (decoder.batch, decoder.rows)
    return generated.reshape(*shape, -1), score.reshape(shape)


def _take(x: jax.Array, beams: jax.Array) -> jax.Array:
    """`x` `[batch, beams, ...]` in the order of `beams` `[batch, chosen]`."""
    return jnp.take_along_axis(x, beams.reshape(*beams.shape, *(1,) * (x.ndim - 2)), 1)


def beam_search(decoder: _Decoder, limit: jax.Array, method: Decoding) -> tuple[jax.Array, jax.Array]:
    """Beam search as Hugging Face's `generate(num_beams=…)` does it, with `early_stopping=False`.

    Of every step's `2 * num_beams` best continuations, those that end and are among the `num_beams` best compete with
    the ended ones so far, and the `num_beams` best others go on. An example is done where its best running beam, as
    long as it is, is no better than the worst of the ended ones.

    Args:
      decoder: of `method.num_beams` rows.
      limit: tokens at most, the end of sequence among them.
      method: the number of beams and the length penalty.

    Returns:
      Tokens `[batch, num_beams, max_length]`, the best first, and `log p / length ** length_penalty`
      `[batch, num_beams]`.
    """
    batch, beams = decoder.batch, decoder.rows

    def normalised(score, length):
        return score / length.astype(jnp.float32) ** method.length_penalty

    def unfinished(carry):
        return (carry[0] < limit) & carry[1].any()

    def step(carry):
        position, open_, written, running, ended_written, ended, cache = carry
        last = jnp.where(position > 0, written[:, :, jnp.maximum(position - 1, 0)], PAD_ID)
        logits, cache = decoder.step(last.reshape(-1), cache, position)
        logits = logits.reshape(batch, beams, -1)
        vocab = logits.shape[-1]
        scores = jax.nn.log_softmax(logits) + running[..., None]
        best, index = jax.lax.top_k(scores.reshape(batch, -1), 2 * beams)
        source, token = index // vocab, (index % vocab).astype(jnp.int32)
        continued = jax.lax.dynamic_update_slice(_take(written, source), token[..., None], (0, 0, position))
        ends = (token == EOS_ID) | (position + 1 >= limit)

        running, order = jax.lax.top_k(jnp.where(ends, _NEVER, best), beams)
        counts = ends & (jnp.arange(2 * beams)[None] < beams) & open_[:, None]
        new = jnp.where(counts, normalised(best, position + 1), _NEVER)
        ended, kept = jax.lax.top_k(jnp.concatenate([ended, new], 1), beams)
        ended_written = _take(jnp.concatenate([ended_written, continued], 1), kept)
        parents = _take(source, order)
        flat = (jnp.arange(batch)[:, None] * beams + parents).reshape(-1)
        cache = jax.tree.map(lambda x: x[flat], cache)
        open_ &= normalised(running[:, 0], position + 1) > ended.min(1)
        return position + 1, open_, _take(continued, order), running, ended_written, ended, cache

    written = jnp.zeros((batch, beams, decoder.max_length), jnp.int32)
    running = jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER)[None].repeat(batch, 0)
    none, open_ = jnp.full((batch, beams), _NEVER), jnp.ones(batch, bool)
    carry = (jnp.int32(0), open_, written, running, written, none, decoder.cache)
    found = jax.lax.while_loop(unfinished, step, carry)
    return found[4], found[5]


def generate(
    network: T5,
    params: Any,
    tokens: jax.Array,
    cached: Cached | None,
    max_length: int,
    limit: jax.Array,
    method: Decoding,
    seed: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """`beam_search` or `sample`, as the method says; the other arguments are theirs, and those of `_Decoder`."""
    decoder = _Decoder(network, params, tokens, cached, max_length, method.rows)
    if method.num_beams > 1:
        return beam_search(decoder, limit, method)
    return sample(decoder, limit, method, seed)


def bucketed(length: int) -> int:
    """The length that is compiled for: four to an octave from 32 on, multiples of 8 before it.

    So there are few of them, and at most a quarter of the work is padding.
    """
    step = max(8, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step
