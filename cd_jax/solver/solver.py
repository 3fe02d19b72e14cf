"""The solver on its mesh: initialisation, the training step, decoding, scoring, context embeddings, all under jit."""

import dataclasses
import math
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
from cd_jax.solver import decoding, network, optimizers, partitioning
from cd_jax.solver.config import T5Config
from cd_jax.solver.decoding import Decoding

Batch = dict[str, np.ndarray]
GREEDY = Decoding()


class TrainState(struct.PyTreeNode):
    """What a checkpoint holds of the solver: `step` is the number of updates done."""

    step: Any
    params: Any
    opt_state: Any


@gin.configurable
class Solver:
    """T5 with its optimiser, on a mesh with axes `data` and `model`."""

    def __init__(
        self,
        config: T5Config,
        vocab_size: int,
        learning_rate: optax.Schedule,
        optimizer: Callable[..., optax.GradientTransformation] = optimizers.adafactor,
        mesh_data: int = -1,
        mesh_model: int = 1,
        devices: Sequence[jax.Device] | None = None,
        logical_axis_rules: partitioning.Rules = partitioning.MODEL_RULES,
        num_microbatches: int = 1,
        z_loss: float = 0.0,
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
          logical_axis_rules: which logical axis lies along which axis of the mesh.
          num_microbatches: parts of a batch whose gradients are added up, one after the other.
          z_loss: weight of `log(Z)^2` in the loss (T5X's `z_loss`).

        Raises:
          RequestError: the mesh does not fit the devices or the network.
        """
        partitioning.check_rules(logical_axis_rules)
        self.config = dataclasses.replace(config, vocab_size=config.vocab_size or vocab_size)
        self.learning_rate = learning_rate
        self.optimizer_name: str = optimizer.__name__
        self.mesh = partitioning.make_mesh(mesh_data, mesh_model, devices)
        self.num_microbatches, self._z_loss = num_microbatches, z_loss
        self._rules = logical_axis_rules
        self.batch_shards = partitioning.batch_shards(logical_axis_rules, self.mesh.shape)
        self._batch_sharding = partitioning.batch_sharding(self.mesh, logical_axis_rules)
        self._network = network.T5(self.config)
        self._optimizer = optimizer(learning_rate=learning_rate)
        self._shardings = self._state_shardings()
        replicated = NamedSharding(self.mesh, PartitionSpec())
        self._train_step = jax.jit(
            self._update,
            donate_argnums=0,
            out_shardings=(self._shardings, {"loss": replicated, "grad_norm": replicated}),
        )
        self._generate = jax.jit(
            self._decode, static_argnames=("max_length", "method"), out_shardings=(replicated, replicated)
        )
        self._score = jax.jit(self._nats, out_shardings=replicated)
        self._embed = jax.jit(self._pool, out_shardings=replicated)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint records beside the network's shape: with other values training would go on otherwise."""
        config = self.config
        return {"dropout_rate": config.dropout_rate, "dtype": config.dtype, "z_loss": self._z_loss}

    # Initialisation

    def _init(self, seed: int) -> Any:
        tokens = jnp.zeros((1, 1, 8), jnp.int32)
        return self._network.init(jax.random.key(seed), tokens, tokens[0])["params"]

    def _make_state(self, seed: int) -> TrainState:
        params = nn.unbox(self._init(seed))
        return TrainState(jnp.zeros((), jnp.int32), params, self._optimizer.init(params))

    def _state_shardings(self) -> TrainState:
        boxed, state = jax.eval_shape(lambda: self._init(0)), jax.eval_shape(lambda: self._make_state(0))
        params = partitioning.parameter_shardings(self.mesh, boxed, self._rules, self.config)
        opt_state = partitioning.optimizer_shardings(self.mesh, state.opt_state, state.params, params)
        return TrainState(NamedSharding(self.mesh, PartitionSpec()), params, opt_state)

    def init(self, seed: int) -> TrainState:
        """Fresh parameters, made where they belong; the same on every mesh."""
        return jax.jit(self._make_state, static_argnums=0, out_shardings=self._shardings)(seed)

    def start_from(self, params: Any) -> TrainState:
        """Parameters of another run, on this mesh, with a fresh state of the optimiser; step 0."""
        opt_state = jax.jit(self._optimizer.init, out_shardings=self._shardings.opt_state)(params)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of `init`'s result, for restoring a checkpoint into."""
        state = jax.eval_shape(lambda: self._make_state(0))
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, self._shardings)

    # Training

    def _cast(self, params: Any) -> Any:
        """Matrices in the dtype of the activations, before anything gathers them from other devices."""

        def cast(path, leaf):
            return leaf.astype(self.config.dtype) if path[-1].key in ("kernel", "embedding") else leaf

        return jax.tree_util.tree_map_with_path(cast, params)

    def _loss(self, params: Any, batch: dict[str, jax.Array], weight: jax.Array, key: jax.Array) -> jax.Array:
        """Of a batch, or a part of one; `weight` is the whole batch's."""
        params = self._cast(params)
        states: Any = self._network.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            rngs={"dropout": key} if self.config.dropout_rate else {},
            method="states",
        )
        # Gathered once, and not for every chunk of the loss.
        kernel = nn.with_logical_constraint(network.output_kernel(self.config, params), (None, "vocab"))
        nats = losses.projected_cross_entropy(
            states,
            kernel,
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            self._z_loss,
            self.config.logits_chunk,
            math.gcd(len(states), self.batch_shards),
        )
        return nats / weight

    def _gradients(self, params: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Any]:
        """Loss and gradients, added up over the microbatches."""
        weight = losses.total_weight(batch["decoder_loss_weights"])
        of = jax.value_and_grad(self._loss)
        count = self.num_microbatches
        if count == 1:
            return of(params, batch, weight, key)
        # Every device's rows are dealt out evenly: no row has to move.
        parts = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)

        def add(total, part):
            index, part = part
            return jax.tree.map(jnp.add, total, of(params, part, weight, jax.random.fold_in(key, index))), None

        start = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))
        return jax.lax.scan(add, start, (jnp.arange(count), parts))[0]

    def _update(
        self, state: TrainState, batch: dict[str, jax.Array], seed: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, grads = self._gradients(state.params, batch, key)
        updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state), metrics

    def _on_mesh(self, function: Callable, *args, **kwargs):
        # The constraints on activations name logical axes; they are resolved while tracing.
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self._rules):
            return function(*args, **kwargs)

    def train_step(self, state: TrainState, batch: Batch, seed: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update. `state` is donated; the metrics stay on the device until they are read.

        Args:
          state: of `init`.
          batch: the model features of `PassagesFeatureConverter`, `[batch, ...]`; this host's rows.
          seed: of the dropout.
        """
        return self._on_mesh(
            self._train_step, state, partitioning.shard_batch(self._batch_sharding, batch), np.uint32(seed)
        )

    # Inference

    def _decode(self, params: Any, tokens: jax.Array, limit: jax.Array, seed: jax.Array, max_length, method) -> Any:
        return decoding.generate(self._network, self._cast(params), tokens, max_length, limit, method, seed)

    def generate_all(
        self, params: Any, tokens: np.ndarray, max_length: int, method: Decoding = GREEDY, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes. Compiled for a bucket of lengths (`decoding.bucketed`), not for every length.

        Args:
          params: of a `TrainState`.
          tokens: passages `[batch, passages, length]`.
          max_length: tokens at most, the end of sequence among them.
          method: how tokens are chosen.
          seed: of the draws.

        Returns:
          Tokens `[batch, num_samples or num_beams, max_length]`, 0 after the end of sequence, and their scores
          `[batch, num_samples or num_beams]`: see `decoding.sample` and `decoding.beam_search`.
        """
        padded = np.pad(tokens, ((0, 0), (0, 0), (0, decoding.bucketed(tokens.shape[-1]) - tokens.shape[-1])))
        batch = partitioning.shard_batch(self._batch_sharding, {"tokens": padded})
        room = decoding.bucketed(max_length)
        numbers = np.int32(max_length), np.uint32(seed)
        found = self._on_mesh(self._generate, params, batch["tokens"], *numbers, max_length=room, method=method)
        return np.asarray(found[0])[..., :max_length], np.asarray(found[1])

    def generate(
        self, params: Any, tokens: np.ndarray, max_length: int, method: Decoding = GREEDY, seed: int = 0
    ) -> np.ndarray:
        """The first of `generate_all`'s for every example, with beams the best: `[batch, max_length]`."""
        return self.generate_all(params, tokens, max_length, method, seed)[0][:, 0]

    def _nats(self, params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        before = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        params = self._cast(params)
        states: Any = self._network.apply({"params": params}, tokens, before, method="states")
        return losses.token_nats(states, network.output_kernel(self.config, params), targets, self.config.logits_chunk)

    def score(self, params: Any, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """`log p(target token | input, tokens before)`: sum a row for the sequence's log p(u | x).

        Args:
          params: of a `TrainState`.
          tokens: passages `[batch, passages, length]`.
          targets: `[batch, targets]`, padded with 0.

        Returns:
          float32 `[batch, targets]`, 0 where the targets are padding.
        """
        lengths = [decoding.bucketed(x.shape[-1]) - x.shape[-1] for x in (tokens, targets)]
        given = {
            "tokens": np.pad(tokens, ((0, 0), (0, 0), (0, lengths[0]))),
            "targets": np.pad(targets, ((0, 0), (0, lengths[1]))),
        }
        batch = partitioning.shard_batch(self._batch_sharding, given)
        nats = np.asarray(self._on_mesh(self._score, params, batch["tokens"], batch["targets"]))
        return np.where(targets == network.PAD_ID, np.float32(0), -nats[:, : targets.shape[1]])

    def _pool(self, params: Any, tokens: jax.Array) -> Any:
        return self._network.apply({"params": params}, tokens, method="pool")

    def embed(self, params: Any, tokens: np.ndarray, batch_size: int) -> np.ndarray:
        """Context embeddings, the mean of the encoder's states: `[rows, length]` to float32 `[rows, embed]`."""
        padded = np.pad(tokens, ((0, -len(tokens) % batch_size), (0, 0)))
        parts = []
        hosts, host = jax.process_count(), jax.process_index()
        for rows in np.split(padded, len(padded) // batch_size):
            batch = partitioning.shard_batch(self._batch_sharding, {"tokens": np.split(rows, hosts)[host]})
            parts.append(self._on_mesh(self._embed, params, batch["tokens"]))
        return np.concatenate([np.asarray(part) for part in parts])[: len(tokens)]

    # For a machine that is not here

    def _abstract(self, shape: tuple[int, ...], dtype=np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._batch_sharding)

    def lower_train_step(
        self, batch_size: int, passages: int, input_length: int, target_length: int
    ) -> jax.stages.Lowered:
        """The training step, lowered for the mesh; its devices may be those of a topology that is not attached."""
        targets = self._abstract((batch_size, target_length))
        batch = {
            "encoder_input_tokens": self._abstract((batch_size, passages, input_length)),
            "decoder_input_tokens": targets,
            "decoder_target_tokens": targets,
            "decoder_loss_weights": self._abstract((batch_size, target_length), np.float32),
        }
        seed = jax.ShapeDtypeStruct((), np.uint32)
        return self._on_mesh(self._train_step.lower, self.abstract_state(), batch, seed)

    def lower_generate(
        self, batch_size: int, passages: int, input_length: int, max_length: int, method: Decoding = GREEDY
    ) -> jax.stages.Lowered:
        """Decoding, lowered for the mesh as in `lower_train_step`."""
        tokens = self._abstract((batch_size, passages, input_length))
        limit, seed = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((), np.uint32)
        params = self.abstract_state().params
        return self._on_mesh(self._generate.lower, params, tokens, limit, seed, max_length=max_length, method=method)
