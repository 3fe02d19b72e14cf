"""Tokens of texts in batches of few shapes, so that few programs are compiled, and their scores in order again."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.weights.wordpiece import Tokenizer

# Lengths are padded to these, multiples of them by two.
_LENGTHS = (16, 24)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens of one input.

    Attributes:
      ids: of all tokens, with their marks.
      first: how many of them are of segment 0; the rest is of segment 1.
    """

    ids: list[int]
    first: int


def single(tokenizer: Tokenizer, text: str, longest: int) -> Tokens:
    """`[CLS] text [SEP]`, the text cut at its end."""
    ids = [tokenizer.cls, *tokenizer.ids(text)[: longest - 2], tokenizer.sep]
    return Tokens(ids, len(ids))


def pair(tokenizer: Tokenizer, one: str, other: str, longest: int) -> Tokens:
    """`[CLS] one [SEP] other [SEP]`.

    Args:
      tokenizer: of both.
      one: segment 0.
      other: segment 1.
      longest: tokens at most. What is too much is taken off the end of the longer text, token by token, of the second
        where they are equally long, as in the original BERT.
    """
    first, second = tokenizer.ids(one), tokenizer.ids(other)
    room = longest - 3
    kept = min(len(second), max(room // 2, room - len(first)))
    first = first[: room - kept]
    ids = [tokenizer.cls, *first, tokenizer.sep, *second[:kept], tokenizer.sep]
    return Tokens(ids, len(first) + 2)


def padded_length(length: int, longest: int) -> int:
    """The smallest of 16, 24, 32, 48, 64, 96, ... that holds `length` tokens, at most `longest`."""
    doubled = [base << max(-(-length // base) - 1, 0).bit_length() for base in _LENGTHS]
    return min(*doubled, longest)


def padded(inputs: Sequence[Tokens], rows: int, length: int) -> np.ndarray:
    """A batch.

    Args:
      inputs: at most `rows`, of at most `length` tokens.
      rows: of the batch; those that are no input have no tokens but one of padding, so that attention has an object.
      length: of the batch.

    Returns:
      Ids, mask and segments, int32 `[3, rows, length]`.
    """
    batch = np.zeros((3, rows, length), np.int32)
    ids, mask, segments = batch
    mask[:, 0] = 1
    for row, one in enumerate(inputs):
        ids[row, : len(one.ids)] = one.ids
        mask[row, : len(one.ids)] = 1
        segments[row, one.first : len(one.ids)] = 1
    return batch


def shardings(devices: int) -> tuple[NamedSharding, NamedSharding]:
    """What every device has a copy of, and what is cut into rows, over the first of this host's devices."""
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("batch",))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))


class Batched:
    """A network that reads batches, compiled for few shapes, each spread over this host's devices.

    Attributes:
      replicated: where its parameters are to lie.
    """

    def __init__(self, apply: Callable[..., Any], batch_size: int, longest: int):
        """Prepares it.

        Args:
          apply: parameters, ids, mask and segments, int32 `[batch, length]` each, to `[batch, ...]`.
          batch_size: rows of a batch at most, up to the next multiple of the devices.
          longest: tokens of an input at most.
        """
        self._batch_size, self._longest, self._devices = batch_size, longest, jax.local_device_count()
        self.replicated, self._rows = shardings(self._devices)

        # A score is the same everywhere: TPUs and GPUs would compute with fewer digits.
        def precise(*args: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                return apply(*args)

        self._apply = jax.jit(precise)

    def __call__(self, params: Any, inputs: Sequence[Tokens]) -> np.ndarray:
        """The results `[inputs, ...]`, float32, in the order of the inputs, of which there is one at least."""
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i].ids))
        # What does not fill a batch is the shortest.
        starts = range(-(-len(order) % self._batch_size), len(order), self._batch_size)
        groups = [order[max(start, 0) : start + self._batch_size] for start in starts]
        found = [self._apply(params, *self._batch([inputs[i] for i in group])) for group in groups]
        results = np.concatenate([np.asarray(one)[: len(group)] for one, group in zip(found, groups, strict=True)])
        return results[np.argsort(order)]

    def _batch(self, inputs: list[Tokens]) -> list[jax.Array]:
        """Ids, mask and segments, on the devices."""
        rows = min(1 << (len(inputs) - 1).bit_length(), self._batch_size)
        rows = -(-rows // self._devices) * self._devices
        length = padded_length(max(len(one.ids) for one in inputs), self._longest)
        return [jax.device_put(array, self._rows) for array in padded(inputs, rows, length)]


def abstract_params(module: nn.Module, sharding: Any) -> Any:
    """The tree of the parameters of a network of `Batched`: shapes, types and shardings."""
    tokens = jax.ShapeDtypeStruct((1, 1), np.int32)
    shapes = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), tokens, tokens, tokens)["params"]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
