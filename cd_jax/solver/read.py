"""What a policy reads of the solver inside its compiled training step."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from cd_jax.losses import cross_entropy
from cd_jax.nets import network


class Bound:
    """The network with its parameters, without dropout: pure functions, differentiable by the parameters."""

    def __init__(self, of: network.T5, params: Any):
        """Binds parameters, which are in the dtypes that the network computes with."""
        self._network, self._params = of, params

    def apply(self, *args, **kwargs) -> Any:
        """`T5.apply`."""
        return self._network.apply({"params": self._params}, *args, **kwargs)

    def pool(self, tokens: jax.Array) -> jax.Array:
        """Context embeddings: tokens `[rows, length]` to float32 `[rows, embed]`."""
        return self.apply(tokens, method="pool")

    def encode(self, tokens: jax.Array) -> jax.Array:
        """The encoder's states of `[rows, length]`, each row read alone: `[rows, length, embed]`."""
        return self.apply(tokens, method="encode_passages")

    def output_kernel(self) -> jax.Array:
        """The projection to the vocabulary, `[embed, vocab]`; gathered once, and not for every chunk of a loss."""
        kernel = network.output_kernel(self._network.config, self._params)
        return nn.with_logical_constraint(kernel, (None, "vocab"))

    def token_nats(self, passages: jax.Array, targets: jax.Array) -> jax.Array:
        """`-log p(target token | passages, tokens before)`.

        Args:
          passages: `[batch, passages, length]`.
          targets: `[batch, targets]`, or a multiple of the batch: so many after one another are of the same passages,
            which are encoded once.

        Returns:
          float32 `[batch, targets]`, of padding too. Logits exist for a chunk of positions at once, backwards as well.
        """
        before = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        states = self.apply(passages, before, method="states")
        return cross_entropy.token_nats(states, self.output_kernel(), targets, self._network.config.logits_chunk)


class Read(Protocol):
    """Makes what the network reads, inside the function that is differentiated.

    A static argument of `Solver.train_step`: hashable, and the same object at every step, or all is compiled anew.

    Attributes:
      losses: names of what it adds to the loss.
    """

    @property
    def losses(self) -> tuple[str, ...]:
        """See `Read`."""
        ...

    def __call__(
        self, bound: Bound, batch: dict[str, jax.Array], memory: Any, key: jax.Array
    ) -> tuple[dict[str, Any], dict[str, jax.Array], Any]:
        """Reads.

        Args:
          bound: the solver with the parameters of this step; gradients flow through it.
          batch: the features that `train_step` was given, `[rows, ...]`: all rows, or a microbatch's.
          memory: as `train_step` was given it.
          key: for what is drawn at random; another one at every step and for every microbatch.

        Returns:
          The model features, with `encoder_input_tokens` and, where the decoder is to read them, a `Cached` under
          `cached`; what is added to the loss, by the names of `losses`, each the mean over these rows; and what the
          caller of the step wants to see, arrays `[rows, ...]`.
        """
        ...
