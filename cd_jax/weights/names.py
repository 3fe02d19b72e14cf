"""Our parameters, whose layers are stacked, under T5X's flat names, which have one tensor for each layer.

`encoder/layers/attention/query/kernel [layers, embed, joined_kv]` is in T5X (`t5x.examples.t5.network`)
`encoder/layers_0/attention/query/kernel [embed, joined_kv]`, `encoder/layers_1/…`; everything else has one name.
Formats of other programs are read and written tensor by tensor under the flat names:

    abstract = solver.abstract_state().params
    params = names.stack(tensors, abstract, where=folder)       # {flat name: anything with a shape and slices}
    for name, array in names.unstack(params): …
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import traverse_util

from cd_jax.errors import RequestError
from cd_jax.memory import machine

_STACKED = "/layers/"
# Of sizes, which no published model comes near: what is larger is damaged, and would be tried.
_MOST = {"vocab_size": 2**24, "num_encoder_layers": 1024, "num_decoder_layers": 1024}
_MOST_ELSE = 2**20


class Tensor(Protocol):
    """What may lie on a disk: a shape, and slices as `numpy` arrays."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray: ...


def most(field: str) -> int:
    """What a size of `T5Config` can be at most; whatever is larger is damaged."""
    return _MOST.get(field, _MOST_ELSE)


def _flat(params: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")


def _layer_names(name: str, layers: int) -> list[str]:
    """T5X's names of a stacked parameter."""
    return [name.replace(_STACKED, f"/layers_{layer}/") for layer in range(layers)]


def shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors by T5X's names.

    Args:
      params: the parameter tree, or `Solver.abstract_state().params`.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, leaf in _flat(params).items():
        if _STACKED in name:
            found |= dict.fromkeys(_layer_names(name, leaf.shape[0]), tuple(leaf.shape[1:]))
        else:
            found[name] = tuple(leaf.shape)
    return found


def unstack(params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor under T5X's name, one at a time on the host.

    Args:
      params: the parameter tree, or one of the same names such as the optimiser's state of the parameters.
    """
    for name, leaf in _flat(params).items():
        if _STACKED in name:
            for layer, layer_name in enumerate(_layer_names(name, leaf.shape[0])):
                yield layer_name, np.asarray(leaf[layer])
        else:
            yield name, np.asarray(leaf)


def check(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Compares what is there with what the network needs.

    Args:
      found: shapes by name.
      expected: the same, of the network.
      where: file or folder, for the message.

    Raises:
      RequestError: a tensor is missing, or there is one too many, or one has another shape.
    """
    for name, shape in expected.items():
        if name not in found:
            raise RequestError(f"{where}: lacks the tensor {name} {list(shape)}; export it again, whole")
        if tuple(found[name]) != tuple(shape):
            raise RequestError(
                f"{where}: the tensor {name} is {list(found[name])}, but the network's is {list(shape)}; "
                "give the configuration that it was saved with"
            )
    for name in sorted(found.keys() - expected.keys()):
        raise RequestError(
            f"{where}: holds a tensor {name} {list(found[name])} that the network does not have; "
            "give the configuration that it was saved with"
        )


def check_names(found: Iterable[str], where: object) -> None:
    """Raises RequestError where a tensor's name has characters that nobody prints."""
    for name in found:
        if not name.isprintable():
            raise RequestError(f"{where}: has a tensor named {name[:80]!r}; copy it again, whole")


def check_finite(array: np.ndarray, name: str, where: object) -> None:
    """Raises RequestError, which names the tensor, where it holds infinity or no numbers; of any floating type."""
    if not np.isfinite(array).all():
        raise RequestError(f"{where}: the tensor {name} holds NaN or infinity; copy it again, whole")


def stack(tensors: Mapping[str, Tensor], abstract: Any, where: object) -> Any:
    """The parameter tree; every device's slice is read by itself, so that no host holds the whole.

    Args:
      tensors: by T5X's names; of any floating type.
      abstract: `Solver.abstract_state().params`: shapes, types and, where it is to lie on a mesh, shardings.
      where: file or folder, for the message.

    Raises:
      RequestError: of `check`, or the machine cannot hold the parameters.
    """
    check({name: tuple(tensor.shape) for name, tensor in tensors.items()}, shapes(abstract), where)
    if jax.default_backend() == "cpu":
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
        machine.check_room(size, f"{where}: its parameters need {{}}; take a smaller model")
    leaves = {name: _stacked(name, leaf, tensors) for name, leaf in _flat(abstract).items()}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _stacked(name: str, leaf: jax.ShapeDtypeStruct, tensors: Mapping[str, Tensor]) -> jax.Array | np.ndarray:
    parts = [tensors[part] for part in (_layer_names(name, leaf.shape[0]) if _STACKED in name else [name])]
    read: dict[str, np.ndarray] = {}

    def slices(index: Any) -> np.ndarray:
        # Devices that hold the same slice share one reading of it.
        if str(index) not in read:
            read[str(index)] = _read(parts, index, _STACKED in name).astype(leaf.dtype)
        return read[str(index)]

    if leaf.sharding is None:
        return slices((slice(None),) * len(leaf.shape))
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, slices)


def _read(parts: list[Tensor], index: tuple[slice, ...], stacked: bool) -> np.ndarray:
    if stacked:
        return np.stack([np.asarray(part[index[1:]]) for part in parts[index[0]]])
    return np.asarray(parts[0][index])
