"""T5 1.1 encoder-decoder that reads several passages (Fusion-in-Decoder, Izacard & Grave 2021, arXiv 2007.01282)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cd_jax.solver import layers
from cd_jax.solver.config import T5Config

PAD_ID = 0


def padding_bias(tokens: jax.Array) -> jax.Array:
    """Tokens `[batch, keys]` to a bias `[batch, 1, 1, keys]` that hides padding."""
    return jnp.where(tokens[:, None, None, :] != PAD_ID, 0.0, layers.MASKED).astype(jnp.float32)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after."""

    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array, deterministic: bool) -> jax.Array:
        """`[batch, length, embed]` to the same shape; bias `[batch, heads, length, length]`."""
        drop = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))
        y = layers.layer_norm(self.config, "pre_attention_layer_norm")(x)
        x = x + drop(layers.Attention(self.config, name="attention")(y, y, bias), deterministic=deterministic)
        y = layers.layer_norm(self.config, "pre_mlp_layer_norm")(x)
        return x + drop(layers.MlpBlock(self.config, name="mlp")(y, deterministic), deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's states, feed-forward."""

    config: T5Config

    @nn.compact
    def __call__(self, x, encoded, self_bias, cross_bias, deterministic: bool, decode: bool) -> jax.Array:
        """`[batch, length, embed]` to the same shape; `encoded` is `[batch, passages * length, embed]`."""
        config = self.config
        drop = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,), deterministic=deterministic)
        y = layers.layer_norm(config, "pre_self_attention_layer_norm")(x)
        x = x + drop(layers.Attention(config, name="self_attention")(y, y, self_bias, decode=decode))
        y = layers.layer_norm(config, "pre_cross_attention_layer_norm")(x)
        cross = layers.Attention(config, name="encoder_decoder_attention")
        x = x + drop(cross(y, encoded, cross_bias, cross=True, decode=decode))
        y = layers.layer_norm(config, "pre_mlp_layer_norm")(x)
        return x + drop(layers.MlpBlock(config, name="mlp")(y, deterministic))


class T5(nn.Module):
    """The solver's network."""

    config: T5Config

    def setup(self):
        """Makes the submodules; several methods share them."""
        config = self.config
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        self.token_embedder = nn.Embed(config.vocab_size, config.emb_dim, dtype=config.dtype, embedding_init=init)
        self.encoder_relpos_bias = layers.RelativePositionBias(config, bidirectional=True)
        self.decoder_relpos_bias = layers.RelativePositionBias(config, bidirectional=False)
        self.encoder_layers = [EncoderLayer(config) for _ in range(config.num_encoder_layers)]
        self.decoder_layers = [DecoderLayer(config) for _ in range(config.num_decoder_layers)]
        self.encoder_norm = layers.layer_norm(config)
        self.decoder_norm = layers.layer_norm(config)
        self.dropout = nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))
        self.logits_dense = layers.dense(config, config.vocab_size, ("embed", "vocab"))

    def _embed(self, tokens: jax.Array, deterministic: bool) -> jax.Array:
        x = self.dropout(self.token_embedder(tokens), deterministic=deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))

    def encode_passages(self, tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        """Encodes each row alone.

        Args:
          tokens: `[rows, length]`, padded with 0.
          deterministic: no dropout.

        Returns:
          `[rows, length, embed]`.
        """
        positions = jnp.arange(tokens.shape[-1])
        bias = self.encoder_relpos_bias(positions, positions) + padding_bias(tokens)
        x = self._embed(tokens, deterministic)
        for layer in self.encoder_layers:
            x = layer(x, bias, deterministic)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)

    def encode(self, tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        """Passages `[batch, passages, length]`, each encoded alone, to `[batch, passages * length, embed]`."""
        batch, passages, length = tokens.shape
        encoded = self.encode_passages(tokens.reshape(batch * passages, length), deterministic)
        return encoded.reshape(batch, passages * length, -1)

    def pool(self, tokens: jax.Array) -> jax.Array:
        """Context embeddings for the memory: the mean of the encoder's states over `[rows, length]`'s real tokens."""
        mask = (tokens != PAD_ID)[..., None].astype(jnp.float32)
        states = self.encode_passages(tokens).astype(jnp.float32)
        return (states * mask).sum(1) / jnp.maximum(mask.sum(1), 1.0)

    def decode(self, encoded, encoder_tokens, decoder_tokens, deterministic: bool = True) -> jax.Array:
        """Teacher-forced logits.

        Args:
          encoded: `[batch, passages * length, embed]`.
          encoder_tokens: `[batch, passages, length]`, for the mask.
          decoder_tokens: `[batch, targets]`, shifted right.
          deterministic: no dropout.

        Returns:
          float32 `[batch, targets, vocab]`.
        """
        positions = jnp.arange(decoder_tokens.shape[-1])
        causal = jnp.where(positions[None, :] <= positions[:, None], 0.0, layers.MASKED)
        bias = self.decoder_relpos_bias(positions, positions) + causal[None, None]
        return self._decoder(encoded, encoder_tokens, decoder_tokens, bias, deterministic, decode=False)

    def decode_step(self, encoded, encoder_tokens, token, position, max_length: int) -> jax.Array:
        """Logits of the next token from the `cache` collection.

        Args:
          encoded: `[batch, passages * length, embed]`; read only when the cache is made.
          encoder_tokens: `[batch, passages, length]`.
          token: `[batch, 1]`; `[batch, max_length]` makes the cache.
          position: scalar, of `token` in the targets.
          max_length: length of the cache.

        Returns:
          float32 `[batch, 1, vocab]`.
        """
        keys = jnp.arange(max_length)
        queries = jnp.reshape(position, (1,)) if token.shape[-1] == 1 else keys
        visible = jnp.where(keys[None, :] <= queries[:, None], 0.0, layers.MASKED)
        bias = self.decoder_relpos_bias(queries, keys) + visible[None, None]
        return self._decoder(encoded, encoder_tokens, token, bias, deterministic=True, decode=True)

    def _decoder(self, encoded, encoder_tokens, decoder_tokens, self_bias, deterministic: bool, decode: bool):
        cross_bias = padding_bias(encoder_tokens.reshape(encoder_tokens.shape[0], -1))
        x = self._embed(decoder_tokens, deterministic)
        for layer in self.decoder_layers:
            x = layer(x, encoded, self_bias, cross_bias, deterministic, decode)
        x = self.dropout(self.decoder_norm(x), deterministic=deterministic)
        return self.logits_dense(x).astype(jnp.float32)

    def __call__(self, encoder_input_tokens, decoder_input_tokens, deterministic: bool = True) -> jax.Array:
        """Logits `[batch, targets, vocab]` from `[batch, passages, length]` and `[batch, targets]` (shifted right)."""
        encoded = self.encode(encoder_input_tokens, deterministic)
        return self.decode(encoded, encoder_input_tokens, decoder_input_tokens, deterministic)
