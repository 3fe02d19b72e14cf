"""The solver on its mesh: initialisation, the training step, decoding, scoring, context embeddings, all under jit."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from cd_jax.config.ranges import NonNegativeFloat, PositiveInt
from cd_jax.losses import cross_entropy
from cd_jax.nets import network
from cd_jax.nets.config import T5Config
from cd_jax.nets.network import Cached
from cd_jax.solver import decoding, optimizers
from cd_jax.solver.decoding import Decoding
from cd_jax.solver.partitioning import Axes, Partitioner
from cd_jax.solver.read import Bound, Read

Batch = dict[str, np.ndarray]
GREEDY = Decoding()
# Sets what a reader draws apart from the dropout of the same step.
_READ = 1


class TrainState(struct.PyTreeNode):
    """What a checkpoint holds of the solver: `step` is the number of updates done."""

    step: Any
    params: Any
    opt_state: Any


def _bucket(x: Any) -> Any:
    """Pads the last axis to the length that is compiled for; where the array lies already."""
    pad = jnp.pad if isinstance(x, jax.Array) else np.pad
    return pad(x, ((0, 0),) * (x.ndim - 1) + ((0, decoding.bucketed(x.shape[-1]) - x.shape[-1]),))


def _names(axes: Axes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def _row_axes(array: Any) -> Axes:
    """The axes of the mesh along which an array's rows lie; None: they do not."""
    sharding = getattr(array, "sharding", None)
    return next(iter(sharding.spec), None) if isinstance(sharding, NamedSharding) else None


@gin.configurable
class Solver:
    """T5 with its optimiser, on a mesh with axes `data` and `model`."""

    def __init__(
        self,
        config: T5Config,
        vocab_size: PositiveInt,
        learning_rate: optax.Schedule,
        optimizer: Callable[..., optax.GradientTransformation] = optimizers.adafactor,
        partitioner: Partitioner | None = None,
        num_microbatches: PositiveInt = 1,
        z_loss: NonNegativeFloat = 0.0,
    ):
        """Builds the functions; nothing is compiled before its first call.

        Args:
          config: the network's shape.
          vocab_size: rows of the embedding where the config leaves them to the vocabulary.
          learning_rate: a schedule by step.
          optimizer: called with `learning_rate=`.
          partitioner: lays parameters and batches out on the mesh; None makes the one that gin describes.
          num_microbatches: parts of a batch whose gradients are added up, one after the other.
          z_loss: weight of `log(Z)^2` in the loss (T5X's `z_loss`).

        Raises:
          RequestError: the mesh does not fit the devices or the network.
        """
        self.config = dataclasses.replace(config, vocab_size=config.vocab_size or vocab_size)
        self.learning_rate = learning_rate
        self.optimizer_name: str = optimizer.__name__
        self.partitioner = partitioner or Partitioner()
        self.mesh, self.batch_shards = self.partitioner.mesh, self.partitioner.batch_shards
        self.num_microbatches, self._z_loss = num_microbatches, z_loss
        self._network = network.T5(self.config)
        self._optimizer = optimizer(learning_rate=learning_rate)
        self._shardings = self._state_shardings()
        replicated, by_row = self.partitioner.replicated, self.partitioner.batch_sharding
        self._train_step = jax.jit(
            self._update,
            donate_argnums=0,
            static_argnames="read",
            out_shardings=(self._shardings, replicated),
        )
        self._read = jax.jit(self._reading, static_argnames="read", out_shardings=(by_row, replicated))
        self._generate = jax.jit(
            self._decode, static_argnames=("max_length", "method"), out_shardings=(replicated, replicated)
        )
        self._score = jax.jit(self._nats, out_shardings=replicated)
        self._attended = jax.jit(self._shares, static_argnames="groups", out_shardings=replicated)
        self._encode = jax.jit(self._in_chunks, static_argnames=("batch_size", "method", "axes"))

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
        params = self.partitioner.parameter_shardings(boxed, self.config)
        opt_state = self.partitioner.optimizer_shardings(state.opt_state, state.params, params)
        return TrainState(self.partitioner.replicated, params, opt_state)

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

    def _bind(self, params: Any) -> Bound:
        return Bound(self._network, self._cast(params))

    def _loss(self, params: Any, batch: dict[str, Any], weight: jax.Array, key: jax.Array, read: Read | None, memory):
        """What is differentiated; beside it scalars that add up to the batch's, and what `read` shows of the rows."""
        bound, shown = self._bind(params), {}
        added: dict[str, jax.Array] = {}
        if read is not None:
            batch, added, seen = read(bound, batch, memory, jax.random.fold_in(key, _READ))
            added = {name: jnp.float32(term) / self.num_microbatches for name, term in added.items()}
            shown = {"seen": seen}
        states = bound.apply(
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch.get("cached"),
            rngs={"dropout": key} if self.config.dropout_rate else {},
            method="states",
        )
        nats = cross_entropy.projected_cross_entropy(
            states,
            bound.output_kernel(),
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            self._z_loss,
            self.config.logits_chunk,
            math.gcd(len(states), self.batch_shards),
        )
        loss = nats / weight
        return sum(added.values(), loss), ({"loss": loss, **added}, shown)

    def _accumulated(self, params: Any, batch: dict[str, jax.Array], weight: jax.Array, key: jax.Array, read, memory):
        """Gradients, and beside them scalars, added up over the microbatches, and what `read` shows of all rows."""
        gradient, count = jax.grad(self._loss, has_aux=True), self.num_microbatches
        # Every device's rows are dealt out evenly: no row has to move.
        parts = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)

        def add(total, part):
            index, part = part
            grads, (scalars, shown) = gradient(params, part, weight, jax.random.fold_in(key, index), read, memory)
            return jax.tree.map(jnp.add, total, (grads, scalars)), shown

        names = ("loss", *read.losses) if read else ("loss",)
        start = jax.tree.map(jnp.zeros_like, params), dict.fromkeys(names, jnp.float32(0))
        (grads, scalars), shown = jax.lax.scan(add, start, (jnp.arange(count), parts))
        return grads, (scalars, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), shown))

    def _update(
        self,
        state: TrainState,
        batch: dict[str, jax.Array],
        seed: jax.Array,
        read: Read | None = None,
        memory: Any = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        weight = cross_entropy.total_weight(batch["decoder_loss_weights"])
        gradient = jax.grad(self._loss, has_aux=True) if self.num_microbatches == 1 else self._accumulated
        grads, (scalars, shown) = gradient(state.params, batch, weight, key, read, memory)
        updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = scalars | {"grad_norm": optax.tree.norm(grads)} | shown
        return TrainState(state.step + 1, params, opt_state), metrics

    @contextlib.contextmanager
    def _on_mesh(self) -> Iterator[None]:
        # The constraints on activations name logical axes; they are resolved while tracing.
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.partitioner.logical_axis_rules):
            yield

    def train_step(
        self, state: TrainState, batch: Batch, seed: int, read: Read | None = None, memory: Any = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """One update. `state` is donated; the metrics stay on the device until they are read.

        Args:
          state: of `init`.
          batch: the model features of `PassagesFeatureConverter`, `[batch, ...]`, or what `read` makes them of; this
            host's rows. `decoder_loss_weights` is always among them.
          seed: of the dropout, and of what `read` draws.
          read: makes what the network reads, within the step; see `Read`.
          memory: arrays on the devices, for `read`.

        Returns:
          The state after it, and the metrics `loss` (the cross-entropy) and `grad_norm`; with `read` also what it adds,
          by the names of `Read.losses`, and `seen`, what it shows of the rows, in the order of the batch.
        """
        batch = self.partitioner.shard_batch(batch)
        with self._on_mesh():
            return self._train_step(state, batch, np.uint32(seed), read=read, memory=memory)

    # Inference

    def _reading(self, params: Any, batch: dict[str, jax.Array], memory: Any, read: Read) -> tuple[dict, Any]:
        features, _, seen = read(self._bind(params), batch, memory, jax.random.key(0))
        return features, seen

    def read(self, params: Any, batch: Batch, read: Read, memory: Any) -> tuple[dict[str, Any], Any]:
        """What a `Read` that draws nothing makes of a batch, for decoding, and what it shows of the rows.

        The features stay on the devices, where `generate` and `attended` take them; all hosts have what is shown.
        """
        batch = self.partitioner.shard_batch(batch)
        with self._on_mesh():
            return self._read(params, batch, memory, read=read)

    def _place(self, tokens: np.ndarray | jax.Array, whole: bool = False, **others: Any) -> dict[str, Any]:
        """On the devices: passages `[batch, passages, length]` in a bucket of lengths, and other arrays."""
        return self.partitioner.shard_batch({"tokens": _bucket(tokens), **others}, whole)

    def local_rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch this process loads; see `Partitioner.local_rows`."""
        return self.partitioner.local_rows(batch_size)

    def _decode(self, params: Any, tokens: jax.Array, cached: Cached | None, limit, seed, max_length, method) -> Any:
        return decoding.generate(self._network, self._cast(params), tokens, cached, max_length, limit, method, seed)

    def generate_all(
        self,
        params: Any,
        tokens: np.ndarray | jax.Array,
        max_length: int,
        method: Decoding = GREEDY,
        seed: int = 0,
        cached: Cached | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes. Compiled for a bucket of lengths (`decoding.bucketed`), not for every length.

        Args:
          params: of a `TrainState`.
          tokens: passages `[batch, passages, length]`: this host's rows, or an array on the devices.
          max_length: tokens at most, the end of sequence among them.
          method: how tokens are chosen.
          seed: of the draws.
          cached: states that are read beside the passages.

        Returns:
          Tokens `[batch, num_samples or num_beams, max_length]`, 0 after the end of sequence, and their scores
          `[batch, num_samples or num_beams]`: see `decoding.sample` and `decoding.beam_search`.
        """
        given = self._place(tokens, cached=cached)
        room = decoding.bucketed(max_length)
        numbers = np.int32(max_length), np.uint32(seed)
        with self._on_mesh():
            found = self._generate(params, given["tokens"], given["cached"], *numbers, max_length=room, method=method)
        return np.asarray(found[0])[..., :max_length], np.asarray(found[1])

    def generate(
        self,
        params: Any,
        tokens: np.ndarray | jax.Array,
        max_length: int,
        method: Decoding = GREEDY,
        seed: int = 0,
        cached: Cached | None = None,
    ) -> np.ndarray:
        """The first of `generate_all`'s for every example, with beams the best: `[batch, max_length]`."""
        return self.generate_all(params, tokens, max_length, method, seed, cached)[0][:, 0]

    def _nats(self, params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        return self._bind(params).token_nats(tokens, targets)

    def score(self, params: Any, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """`log p(target token | input, tokens before)`: sum a row for the sequence's log p(u | x).

        Args:
          params: of a `TrainState`.
          tokens: passages `[batch, passages, length]`, all rows on every process.
          targets: `[batch, targets]`, padded with 0; likewise.

        Returns:
          float32 `[batch, targets]`, 0 where the targets are padding.
        """
        given = self._place(tokens, whole=True, targets=_bucket(targets))
        with self._on_mesh():
            nats = np.asarray(self._score(params, given["tokens"], given["targets"]))
        return np.where(targets == network.PAD_ID, np.float32(0), -nats[:, : targets.shape[1]])

    def _shares(self, params: Any, tokens: jax.Array, generated: jax.Array, weights, cached, own, groups: int) -> Any:
        before = jnp.pad(generated, ((0, 0), (1, 0)))[:, :-1]
        return self._bind(params).apply(tokens, before, weights, cached, groups, own, method="attended")

    def attended(
        self,
        params: Any,
        tokens: np.ndarray | jax.Array,
        generated: np.ndarray,
        cached: Cached | None = None,
        groups: int = 0,
        own: np.ndarray | None = None,
    ) -> np.ndarray:
        """How the decoder's cross-attention is shared out while it writes, as a mean over layers, heads and tokens.

        Args:
          params: of a `TrainState`.
          tokens: passages `[batch, passages, length]`.
          generated: `[batch, targets]`, all rows on every process, as of `own`; what comes after an end of
            sequence does not count.
          cached: states that are read beside the passages.
          groups: of equal length, that the cached positions are divided into.
          own: bool `[batch, passages, length]`, the tokens of a passage that no other has; None: all.

        Returns:
          float32 `[batch, passages + groups]`; with `own` one more, the first: what went to all other tokens. A row
          sums to 1.
        """
        ended = np.cumsum(generated == decoding.EOS_ID, 1) - (generated == decoding.EOS_ID) > 0
        weights = ~ended / (~ended).sum(1, keepdims=True, dtype=np.float32)
        own = own if own is None else _bucket(own)
        beside = {"generated": _bucket(generated), "weights": _bucket(weights), "cached": cached, "own": own}
        given = self._place(tokens, whole=True, **beside)
        order = ("tokens", "generated", "weights", "cached", "own")
        with self._on_mesh():
            return np.asarray(self._attended(params, *(given[name] for name in order), groups=groups))

    def _in_chunks(self, params: Any, tokens: jax.Array, batch_size: int, method: str, axes: Any) -> jax.Array:
        bound, rows = self._bind(params), len(tokens)
        sharding = NamedSharding(self.mesh, PartitionSpec(axes))
        parts = math.prod(self.mesh.shape[axis] for axis in _names(axes))
        # Of one chunk of every part at a time: what a device encodes of its own rows stays there.
        own, size = rows // parts, batch_size // parts
        padded = jnp.pad(tokens.reshape(parts, own, -1), ((0, 0), (0, -own % size), (0, 0)))
        chunks = jnp.swapaxes(padded.reshape(parts, -1, size, tokens.shape[-1]), 0, 1)
        chunks = chunks.reshape(-1, batch_size, tokens.shape[-1])

        def encode(chunk):
            # Rows that lie nowhere are dealt out as a batch is, and gathered in the end.
            found = getattr(bound, method)(jax.lax.with_sharding_constraint(chunk, sharding) if axes else chunk)
            return jax.lax.with_sharding_constraint(found, sharding) if axes else found

        found = jax.lax.map(encode, chunks)
        found = jnp.swapaxes(found.reshape(-1, parts, size, *found.shape[2:]), 0, 1)
        found = found.reshape(parts, -1, *found.shape[3:])[:, :own].reshape(rows, *found.shape[3:])
        return jax.lax.with_sharding_constraint(found, sharding)

    def encode_rows(self, params: Any, tokens: Any, batch_size: int, method: str = "pool") -> jax.Array:
        """Encodes any number of rows in one call.

        Args:
          params: of a `TrainState`.
          tokens: `[rows, length]`, the same on every host; or an array whose rows lie along axes of the mesh, each of
            whose devices encodes its own.
          batch_size: rows that are encoded at once; the next multiple of the devices along the batch, or the rows.
          method: `pool` or `encode`, of `Bound`.

        Returns:
          float32 `[rows, embed]`, or states in the dtype of the activations, `[rows, length, embed]`: where the rows
          lie; of rows that lie nowhere, on every device.
        """
        axes = _row_axes(tokens)
        unit = math.lcm(self.batch_shards, math.prod(self.mesh.shape[axis] for axis in _names(axes)))
        batch_size += -batch_size % unit
        with self._on_mesh():
            return self._encode(params, tokens, batch_size=batch_size, method=method, axes=axes)

    def embed(self, params: Any, tokens: np.ndarray, batch_size: int) -> np.ndarray:
        """Context embeddings, the mean of the encoder's states: `[rows, length]` to float32 `[rows, embed]`."""
        # Padded here already: what is compiled depends on the number of batches, and not on that of the rows.
        padded = np.pad(tokens, ((0, -len(tokens) % batch_size), (0, 0)))
        return np.asarray(self.encode_rows(params, padded, batch_size))[: len(tokens)]

    # For a machine that is not here

    def _abstract(self, shape: tuple[int, ...], dtype=np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.partitioner.batch_sharding)

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
        with self._on_mesh():
            return self._train_step.lower(self.abstract_state(), batch, seed)

    def lower_generate(
        self, batch_size: int, passages: int, input_length: int, max_length: int, method: Decoding = GREEDY
    ) -> jax.stages.Lowered:
        """Decoding, lowered for the mesh as in `lower_train_step`."""
        tokens = self._abstract((batch_size, passages, input_length))
        limit, seed = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((), np.uint32)
        params = self.abstract_state().params
        numbers = {"max_length": max_length, "method": method}
        with self._on_mesh():
            return self._generate.lower(params, tokens, None, limit, seed, **numbers)
