"""T5X's Adafactor state from ours.

T5X's Adafactor factors the two longest axes of a tensor, where the shorter of them has at least 128 entries: `v_row`
lacks the longest, `v_col` the other. Its `standard_logical_factor_rules` change nothing for tensors of at most two
axes, of which T5X's T5 is made. `optax.adafactor` has the same rule, the same decay by step and the same scales, and
ours treats every layer by itself. So its state is T5X's, layer by layer, bit for bit: `v_row`, `v_col`, `v`, and with
momentum `m`, which optax calls `ema`.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from cd_jax.weights import names

_STACKED = "/layers/"


def per_layer(tree: Any) -> dict[str, jax.Array]:
    """A tree of parameters, or one of the same names, under T5X's names, sharded as it is.

    Args:
      tree: its stacked leaves are `[layers, ...]`.
    """
    flat: dict[str, jax.Array] = {}
    for name, leaf in traverse_util.flatten_dict(tree, sep="/").items():
        if isinstance(leaf, optax.MaskedNode):  # Another part of the optimiser has this one.
            continue
        if _STACKED in name:
            flat |= {name.replace(_STACKED, f"/layers_{layer}/"): leaf[layer] for layer in range(leaf.shape[0])}
        else:
            flat[name] = leaf
    return flat


def param_states(params: Any, opt_state: Any) -> dict[str, Any]:
    """The optimiser's state of every parameter: `<parameter>/{v_row,v_col,v,m}` by T5X's names.

    Where ours is not Adafactor's, or it factors otherwise than T5X's does, all of it is zeros, with which T5X's starts.
    T5X then estimates the size of the gradients anew; its clipping bounds the first updates.

    Args:
      params: of the solver.
      opt_state: of the solver.
    """
    start = _start(names.shapes(params))
    ours = {f"{name}/{moment}": leaf for moment, tree in _moments(opt_state) for name, leaf in per_layer(tree).items()}
    # `m` alone may have either shape: it is not used without momentum.
    same = all(key in ours and ours[key].shape == zeros.shape for key, zeros in start.items() if not key.endswith("/m"))
    return start | ours if same else start


def _start(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """T5X's Adafactor before its first step; one zero stands for what is not used."""
    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    state = jax.eval_shape(optax.scale_by_factored_rms().init, abstract)
    moments = {"v_row": state.v_row, "v_col": state.v_col, "v": state.v}
    start = {f"{name}/{key}": np.zeros(x.shape, x.dtype) for key, tree in moments.items() for name, x in tree.items()}
    return start | {f"{name}/m": np.zeros(1, np.float32) for name in shapes}


def _moments(opt_state: Any) -> Iterator[tuple[str, Any]]:
    """What optax keeps of the parameters, by T5X's names: trees as the parameters'."""
    kinds = (optax.FactoredState, optax.EmaState)
    for state in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds)):
        if isinstance(state, optax.FactoredState):
            yield from (("v_row", state.v_row), ("v_col", state.v_col), ("v", state.v))
        elif isinstance(state, optax.EmaState):
            yield "m", state.ema
