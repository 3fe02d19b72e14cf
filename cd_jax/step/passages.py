"""The solver's passages, put together where the retrieved updates are known only inside the compiled step."""

import jax
import jax.numpy as jnp

from cd_jax.nets.network import PAD_ID


def _count(tokens: jax.Array) -> jax.Array:
    """Tokens before the padding: `[..., length]` to int32 `[..., 1]`."""
    return (tokens != PAD_ID).sum(-1, keepdims=True, dtype=jnp.int32)


def join(
    prompts: jax.Array, updates: jax.Array, ordinals: jax.Array, length: int, room: int | None = None
) -> jax.Array:
    """A passage for each update: its ordinal, the update, and as much of the end of the prompt as there is room for.

    It equals what `PassagesFeatureConverter` makes of the same tokens on the host. All arguments are padded with 0 at
    the end; an update without tokens leaves the ordinal and the prompt.

    Args:
      prompts: int32 `[batch, prompt_length]`.
      updates: int32 `[batch, passages, update_length]`.
      ordinals: int32 `[passages, ordinal_length]`, which stand before the updates.
      length: of a passage.
      room: tokens of each update that are read, at most; None: half of a passage.

    Returns:
      int32 `[batch, passages, length]`.
    """
    batch, passages, _ = updates.shape
    parts = [
        jnp.broadcast_to(ordinals[None], (batch, *ordinals.shape)),
        updates,
        jnp.broadcast_to(prompts[:, None], (batch, passages, prompts.shape[-1])),
    ]
    ordinal, update, prompt = (_count(part) for part in parts)
    update = jnp.minimum(update, length // 2 if room is None else room)
    head = ordinal + update
    kept = jnp.minimum(prompt, length - head)
    # Where each position of the passage is found in the three parts, one after the other.
    position = jnp.arange(length, dtype=jnp.int32)[None, None]
    of_update = position - ordinal + ordinals.shape[-1]
    of_prompt = position - head + prompt - kept + ordinals.shape[-1] + updates.shape[-1]
    source = jnp.where(position < ordinal, position, jnp.where(position < head, of_update, of_prompt))
    joined = jnp.take_along_axis(jnp.concatenate(parts, -1), source, -1, mode="clip")
    return jnp.where(position < head + kept, joined, PAD_ID)
