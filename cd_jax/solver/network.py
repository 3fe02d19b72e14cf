"""T5 encoder-decoder that reads several passages (Fusion-in-Decoder, Izacard & Grave 2021, arXiv 2007.01282).

The parameters have the names of T5X's network, with the layers of a stack in one array, along its first axis.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from cd_jax.solver import layers, partitioning
from cd_jax.solver.attention import MASKED
from cd_jax.solver.config import T5Config

PAD_ID = 0
_POLICIES = {
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def padding_mask(tokens: jax.Array) -> jax.Array:
    """Tokens `[batch, keys]` to float32 `[batch, keys]`, which hides padding when it is added to logits."""
    return jnp.where(tokens != PAD_ID, 0.0, MASKED).astype(jnp.float32)


def _for_shards(bias: jax.Array, batch: int) -> jax.Array:
    """A bias `[heads, queries, keys]` for each shard of a batch: `[shards, heads, queries, keys]`. See `attend`."""
    mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
    shards = math.gcd(batch, partitioning.batch_shards(rules, mesh.shape))
    copies = jnp.broadcast_to(bias[None], (shards, *bias.shape))
    return nn.with_logical_constraint(copies, ("batch", "heads", None, None)) if shards > 1 else copies


def _stack(layer: type[nn.Module], config: T5Config, length: int) -> nn.Module:
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
        self.layers = _stack(layers.DecoderLayer, config, config.num_decoder_layers)
        self.decoder_norm = layers.layer_norm(config)
        self.dropout = layers.Dropout(config.dropout_rate)
        if not config.logits_via_embedding:
            self.logits_dense = layers.Dense(config.vocab_size, ("embed", "vocab"), config.dtype)

    def __call__(self, embedded, encoded, mask, cross_mask) -> jax.Array:
        """`[batch, targets, embed]` to the states of which logits are made, `[batch, targets, embed]`."""
        positions = jnp.arange(embedded.shape[1])
        bias = _for_shards(self.bias(positions, positions), len(embedded))
        x, _ = self.layers(self.dropout(embedded), encoded, bias, mask, cross_mask)
        return self.finish(x)

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

    def states(self, encoder_input_tokens: jax.Array, decoder_input_tokens: jax.Array) -> jax.Array:
        """What logits are made of: `[batch, passages, length]`, `[batch, targets]` to `[batch, targets, embed]`."""
        encoded = self.encode(encoder_input_tokens)
        embedded = nn.with_logical_constraint(self.embed(decoder_input_tokens), ("batch", "length", "embed"))
        # Padding comes after the end of sequence, which no earlier position sees: the decoder needs no mask for it.
        mask = jnp.zeros(decoder_input_tokens.shape, jnp.float32)
        cross_mask = padding_mask(encoder_input_tokens.reshape(len(encoder_input_tokens), -1))
        return self.decoder(embedded, encoded, mask, cross_mask)

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
