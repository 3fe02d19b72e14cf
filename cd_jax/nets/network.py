"""T5 encoder-decoder that reads several passages (Fusion-in-Decoder, Izacard & Grave 2021, arXiv 2007.01282).

The parameters have the names of T5X's network, with the layers of a stack in one array, along its first axis.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cd_jax.nets import layers
from cd_jax.nets.attention import MASKED
from cd_jax.nets.config import T5Config
from cd_jax.solver import partitioning

PAD_ID = 0
_POLICIES = {
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Cached(NamedTuple):
    """What was encoded before, and is read beside the passages.

    Attributes:
      states: of the encoder, `[batch, positions, embed]`.
      tokens: int32 `[batch, positions]` that they were encoded from; 0 is padding, which nothing attends to.
    """

    states: jax.Array
    tokens: jax.Array


def padding_mask(tokens: jax.Array) -> jax.Array:
    """Tokens `[batch, keys]` to float32 `[batch, keys]`, which hides padding when it is added to logits."""
    return jnp.where(tokens != PAD_ID, 0.0, MASKED).astype(jnp.float32)


def _for_shards(bias: jax.Array, batch: int) -> jax.Array:
    """A bias `[heads, queries, keys]` for each shard of a batch: `[shards, heads, queries, keys]`. See `attend`."""
    mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
    shards = math.gcd(batch, partitioning.batch_shards(rules, mesh.shape))
    copies = jnp.broadcast_to(bias[None], (shards, *bias.shape))
    return nn.with_logical_constraint(copies, ("batch", "heads", None, None)) if shards > 1 else copies


def _stack(layer: type[nn.Module], config: T5Config, length: int, methods: Sequence[str] = ("__call__",)) -> nn.Module:
    """`length` layers in a row, with parameters `[layers, ...]`; the arguments but the first are the same for all."""
    if config.remat_policy != "none":
        layer = nn.remat(layer, policy=_POLICIES[config.remat_policy], prevent_cse=not config.scan_layers)
    scanned = nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=length,
        unroll=1 if config.scan_layers else length,
        metadata_params={nn.PARTITION_NAME: "layers"},
        methods=methods,
    )
    return scanned(config)


class Encoder(nn.Module):
    """The encoder's stack, its relative position bias and its last norm."""

    config: T5Config

    def setup(self):
        """Makes the submodules."""
        config = self.config
        self.relpos_bias = layers.RelativePositionBias(config, bidirectional=True)
        self.layers = _stack(layers.EncoderLayer, config, config.num_encoder_layers)
        self.encoder_norm = layers.layer_norm(config)
        self.dropout = layers.Dropout(config.dropout_rate)

    def __call__(self, embedded: jax.Array, mask: jax.Array) -> jax.Array:
        """`[rows, length, embed]` to the same shape; mask `[rows, length]`."""
        positions = jnp.arange(embedded.shape[1])
        bias = _for_shards(self.relpos_bias(positions, positions), len(embedded))
        x, _ = self.layers(self.dropout(embedded), bias, mask)
        return self.dropout(self.encoder_norm(x))


class Decoder(nn.Module):
    """The decoder's stack, its relative position bias, its last norm and the projection to the vocabulary."""

    config: T5Config

    def setup(self):
        """Makes the submodules."""
        config = self.config
        self.relpos_bias = layers.RelativePositionBias(config, bidirectional=False)
        self.layers = _stack(layers.DecoderLayer, config, config.num_decoder_layers, ("__call__", "attended"))
        self.decoder_norm = layers.layer_norm(config)
        self.dropout = layers.Dropout(config.dropout_rate)
        if not config.logits_via_embedding:
            self.logits_dense = layers.Dense(config.vocab_size, ("embed", "vocab"), config.dtype)

    def __call__(self, embedded, encoded, mask, cross_mask) -> jax.Array:
        """`[batch, targets, embed]` to the states of which logits are made, `[batch, targets, embed]`."""
        bias = self._bias_of_all(embedded)
        x, _ = self.layers(self.dropout(embedded), encoded, bias, mask, cross_mask)
        return self.finish(x)

    def attended(self, weights, embedded, encoded, mask, cross_mask) -> jax.Array:
        """How far `encoded` is attended to: the mean over the layers of `DecoderLayer.attended`'s."""
        bias = self._bias_of_all(embedded)
        return self.layers.attended(embedded, encoded, bias, mask, cross_mask, weights)[1].mean(0)

    def _bias_of_all(self, embedded: jax.Array) -> jax.Array:
        positions = jnp.arange(embedded.shape[1])
        return _for_shards(self.bias(positions, positions), len(embedded))

    def bias(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        """Positions `[queries]`, `[keys]` to float32 `[heads, queries, keys]`; what comes later is hidden."""
        hidden = jnp.where(keys[None, :] <= queries[:, None], 0.0, MASKED).astype(jnp.float32)
        return self.relpos_bias(queries, keys) + hidden[None]

    def finish(self, x: jax.Array) -> jax.Array:
        """The stack's output `[..., embed]` to the states of which logits are made."""
        x = self.decoder_norm(x)
        if self.config.logits_via_embedding:
            x = x * self.config.emb_dim**-0.5
        return self.dropout(x) if x.ndim == 3 else x


class T5(nn.Module):
    """The solver's network."""

    config: T5Config

    def setup(self):
        """Makes the submodules; several methods share them."""
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed_out"))
        self.token_embedder = nn.Embed(
            self.config.vocab_size, self.config.emb_dim, dtype=self.config.dtype, embedding_init=init
        )
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Tokens `[...]` to `[..., embed]`."""
        return self.token_embedder(tokens)

    def encode_passages(self, tokens: jax.Array) -> jax.Array:
        """Encodes each row of `[rows, length]`, padded with 0, alone: `[rows, length, embed]`."""
        embedded = nn.with_logical_constraint(self.embed(tokens), ("batch", "length", "embed"))
        return self.encoder(embedded, padding_mask(tokens))

    def encode(self, tokens: jax.Array) -> jax.Array:
        """Passages `[batch, passages, length]`, each encoded alone, to `[batch, passages * length, embed]`."""
        batch, passages, length = tokens.shape
        encoded = self.encode_passages(tokens.reshape(batch * passages, length))
        return encoded.reshape(batch, passages * length, -1)

    def pool(self, tokens: jax.Array) -> jax.Array:
        """Context embeddings for the memory: the mean of the encoder's states over `[rows, length]`'s real tokens."""
        mask = (tokens != PAD_ID)[..., None].astype(jnp.float32)
        states = self.encode_passages(tokens).astype(jnp.float32)
        return (states * mask).sum(1) / jnp.maximum(mask.sum(1), 1.0)

    def context(self, tokens: jax.Array, cached: Cached | None = None) -> tuple[jax.Array, jax.Array]:
        """What the decoder attends to: the states of the passages, and after them those that were cached.

        Args:
          tokens: passages `[batch, passages, length]`.
          cached: states that were encoded before, if there are any.

        Returns:
          States `[batch, positions, embed]` and the mask of their padding, float32 `[batch, positions]`.
        """
        encoded, read = self.encode(tokens), tokens.reshape(len(tokens), -1)
        if cached is not None:
            encoded = jnp.concatenate([encoded, cached.states.astype(encoded.dtype)], 1)
            read = jnp.concatenate([read, cached.tokens], 1)
        return encoded, padding_mask(read)

    def _decoder_inputs(self, encoder_input_tokens, decoder_input_tokens, cached) -> tuple[jax.Array, ...]:
        encoded, cross_mask = self.context(encoder_input_tokens, cached)
        copies = len(decoder_input_tokens) // len(encoder_input_tokens)
        if copies > 1:
            encoded, cross_mask = jnp.repeat(encoded, copies, axis=0), jnp.repeat(cross_mask, copies, axis=0)
        embedded = nn.with_logical_constraint(self.embed(decoder_input_tokens), ("batch", "length", "embed"))
        # Padding comes after the end of sequence, which no earlier position sees: the decoder needs no mask for it.
        mask = jnp.zeros(decoder_input_tokens.shape, jnp.float32)
        return embedded, encoded, mask, cross_mask

    def states(
        self, encoder_input_tokens: jax.Array, decoder_input_tokens: jax.Array, cached: Cached | None = None
    ) -> jax.Array:
        """What logits are made of: `[batch, passages, length]`, `[batch, targets]` to `[batch, targets, embed]`.

        The decoder's rows may be a multiple of the passages': so many after one another read the same ones.
        """
        return self.decoder(*self._decoder_inputs(encoder_input_tokens, decoder_input_tokens, cached))

    def attended(
        self,
        encoder_input_tokens: jax.Array,
        decoder_input_tokens: jax.Array,
        weights: jax.Array,
        cached: Cached | None = None,
        groups: int = 0,
        own: jax.Array | None = None,
    ) -> jax.Array:
        """How the decoder's cross-attention is shared out, as a mean over its layers and heads.

        Args:
          encoder_input_tokens: `[batch, passages, length]`.
          decoder_input_tokens: `[batch, targets]`.
          weights: of the target positions, float32 `[batch, targets]`; those of a row sum to 1.
          cached: states that are read beside the passages.
          groups: of equal length, that the cached positions are divided into.
          own: bool `[batch, passages, length]`, the tokens of a passage that no other has; None: all.

        Returns:
          float32 `[batch, passages + groups]`; with `own` one more, the first: what went to all other tokens. A row
          sums to 1.
        """
        inputs = self._decoder_inputs(encoder_input_tokens, decoder_input_tokens, cached)
        shares = self.decoder.attended(weights, *inputs)
        batch, passages, length = encoder_input_tokens.shape
        of_passages, of_cached = jnp.split(shares, [passages * length], 1)
        each = of_passages.reshape(batch, passages, length)
        segments = [each.sum(-1)]
        if own is not None:
            segments = [jnp.where(own, 0.0, each).sum((1, 2))[:, None], jnp.where(own, each, 0.0).sum(-1)]
        if groups:
            segments.append(of_cached.reshape(batch, groups, -1).sum(-1))
        return jnp.concatenate(segments, 1)

    def logits(self, states: jax.Array) -> jax.Array:
        """States `[..., embed]` to float32 logits `[..., vocab]`."""
        if self.config.logits_via_embedding:
            return self.token_embedder.attend(states).astype(jnp.float32)
        return self.decoder.logits_dense(states).astype(jnp.float32)

    def finish(self, x: jax.Array) -> jax.Array:
        """The decoder stack's output `[batch, embed]`, at one position, to float32 logits `[batch, vocab]`."""
        return self.logits(self.decoder.finish(x))

    def bias(self, position: jax.Array, max_length: int) -> jax.Array:
        """Of one decoder position towards all: float32 `[heads, max_length]`."""
        return self.decoder.bias(jnp.reshape(position, (1,)), jnp.arange(max_length))[:, 0]

    def __call__(self, encoder_input_tokens: jax.Array, decoder_input_tokens: jax.Array) -> jax.Array:
        """Logits `[batch, targets, vocab]` from `[batch, passages, length]` and `[batch, targets]` (shifted right)."""
        return self.logits(self.states(encoder_input_tokens, decoder_input_tokens))


def output_kernel(config: T5Config, params) -> jax.Array:
    """The projection to the vocabulary, `[embed, vocab]`."""
    if config.logits_via_embedding:
        return params["token_embedder"]["embedding"].T
    return params["decoder"]["logits_dense"]["kernel"]
