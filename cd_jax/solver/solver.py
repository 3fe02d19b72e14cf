"""The solver on its mesh: initialisation, the training step, greedy decoding, context embeddings, all under jit."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from cd_jax import losses
from cd_jax.solver import partitioning
from cd_jax.solver.config import T5Config
from cd_jax.solver.network import PAD_ID, T5

EOS_ID = 1
Batch = dict[str, np.ndarray]


class TrainState(struct.PyTreeNode):
    """What a checkpoint holds of the solver: `step` is the number of updates done."""

    step: Any
    params: Any
    opt_state: Any


@gin.configurable
class Solver:
    """T5 1.1 with its optimiser, on a mesh with axes `data` and `model`."""

    def __init__(
        self,
        config: T5Config,
        vocab_size: int,
        learning_rate: optax.Schedule,
        optimizer: Callable[..., optax.GradientTransformation] = optax.adafactor,
        mesh_data: int = -1,
        mesh_model: int = 1,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Builds the functions; nothing is compiled before its first call.

        Args:
          config: the network's shape.
          vocab_size: rows of the embedding where the config leaves them to the vocabulary.
          learning_rate: a schedule by step.
          optimizer: called with `learning_rate=`.
          mesh_data: devices along `data`; -1 takes all that `mesh_model` leaves.
          mesh_model: devices along `model`.
          devices: of the mesh; None takes all there are.

        Raises:
          RequestError: the mesh does not fit the devices.
        """
        self.config = dataclasses.replace(config, vocab_size=config.vocab_size or vocab_size)
        self.learning_rate = learning_rate
        self.optimizer_name: str = optimizer.__name__
        self.mesh = partitioning.make_mesh(mesh_data, mesh_model, devices)
        self._network = T5(self.config)
        self._optimizer = optimizer(learning_rate=learning_rate)
        self._shardings = self._state_shardings()
        replicated = NamedSharding(self.mesh, PartitionSpec())
        self._train_step = jax.jit(
            self._update,
            donate_argnums=0,
            out_shardings=(self._shardings, {"loss": replicated, "grad_norm": replicated}),
        )
        self._generate = jax.jit(self._greedy, static_argnames="max_length", out_shardings=replicated)
        self._embed = jax.jit(self._pool, out_shardings=replicated)

    def config_dict(self) -> dict[str, Any]:
        """The network's shape, as a checkpoint records it."""
        return dataclasses.asdict(self.config)

    # Initialisation

    def _init(self, seed: int) -> Any:
        tokens = jnp.zeros((1, 1, 8), jnp.int32)
        return self._network.init(jax.random.key(seed), tokens, tokens[0])["params"]

    def _make_state(self, seed: int) -> TrainState:
        params = nn.unbox(self._init(seed))
        return TrainState(jnp.zeros((), jnp.int32), params, self._optimizer.init(params))

    def _state_shardings(self) -> TrainState:
        boxed, state = jax.eval_shape(lambda: self._init(0)), jax.eval_shape(lambda: self._make_state(0))
        params = partitioning.parameter_shardings(self.mesh, boxed)
        opt_state = partitioning.optimizer_shardings(self.mesh, self._optimizer, state.opt_state, state.params, params)
        return TrainState(NamedSharding(self.mesh, PartitionSpec()), params, opt_state)

    def init(self, seed: int) -> TrainState:
        """Fresh parameters, made where they belong; the same on every mesh."""
        return jax.jit(self._make_state, static_argnums=0, out_shardings=self._shardings)(seed)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of `init`'s result, for restoring a checkpoint into."""
        state = jax.eval_shape(lambda: self._make_state(0))
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, self._shardings)

    # Training

    def _loss(self, params: Any, batch: dict[str, jax.Array], dropout_key: jax.Array) -> jax.Array:
        logits: Any = self._network.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            deterministic=self.config.dropout_rate == 0.0,
            rngs={"dropout": dropout_key},
        )
        return losses.token_weighted_cross_entropy(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        )

    def _update(
        self, state: TrainState, batch: dict[str, jax.Array], seed: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, grads = jax.value_and_grad(self._loss)(state.params, batch, dropout_key)
        updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state), metrics

    def _on_mesh(self, function: Callable, *args, **kwargs):
        # The constraints on activations name logical axes; they are resolved while tracing.
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(partitioning.LOGICAL_AXIS_RULES):
            return function(*args, **kwargs)

    def train_step(self, state: TrainState, batch: Batch, seed: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update. `state` is donated; the metrics stay on the device until they are read.

        Args:
          state: of `init`.
          batch: the model features of `PassagesFeatureConverter`, `[batch, ...]`; this host's rows.
          seed: of the dropout.
        """
        return self._on_mesh(self._train_step, state, partitioning.shard_batch(self.mesh, batch), np.uint32(seed))

    # Inference

    def _greedy(self, params: Any, tokens: jax.Array, max_length: int) -> jax.Array:
        apply = functools.partial(self._network.apply, mutable=["cache"])
        encoded = self._network.apply({"params": params}, tokens, method="encode")
        batch = tokens.shape[0]
        start = jnp.zeros((batch, max_length), jnp.int32)
        _, made = apply({"params": params}, encoded, tokens, start, 0, max_length, method="decode_step")

        def unfinished(carry):
            position, _, _, done, _ = carry
            return (position < max_length) & ~done.all()

        def step(carry):
            position, token, generated, done, cache = carry
            logits, new = apply(
                {"params": params, "cache": cache}, encoded, tokens, token, position, max_length, method="decode_step"
            )
            token = jnp.where(done[:, None], PAD_ID, logits.argmax(-1).astype(jnp.int32))
            generated = jax.lax.dynamic_update_slice(generated, token, (0, position))
            return position + 1, token, generated, done | (token[:, 0] == EOS_ID), new["cache"]

        first = (jnp.int32(0), start[:, :1], start, jnp.zeros(batch, bool), made["cache"])
        return jax.lax.while_loop(unfinished, step, first)[2]

    def generate(self, params: Any, tokens: np.ndarray, max_length: int) -> np.ndarray:
        """Greedy decoding with a KV cache.

        Args:
          params: of a `TrainState`.
          tokens: passages `[batch, passages, length]`.
          max_length: tokens at most, the end of sequence among them.

        Returns:
          `[batch, max_length]`, 0 after the end of sequence.
        """
        batch = partitioning.shard_batch(self.mesh, {"tokens": tokens})
        return np.asarray(self._on_mesh(self._generate, params, batch["tokens"], max_length=max_length))

    def _pool(self, params: Any, tokens: jax.Array) -> Any:
        return self._network.apply({"params": params}, tokens, method="pool")

    def embed(self, params: Any, tokens: np.ndarray, batch_size: int) -> np.ndarray:
        """Context embeddings, the mean of the encoder's states: `[rows, length]` to float32 `[rows, embed]`."""
        padded = np.pad(tokens, ((0, -len(tokens) % batch_size), (0, 0)))
        parts = []
        hosts, host = jax.process_count(), jax.process_index()
        for rows in np.split(padded, len(padded) // batch_size):
            batch = partitioning.shard_batch(self.mesh, {"tokens": np.split(rows, hosts)[host]})
            parts.append(self._on_mesh(self._embed, params, batch["tokens"]))
        return np.concatenate([np.asarray(part) for part in parts])[: len(tokens)]
