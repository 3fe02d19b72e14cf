#!/usr/bin/env bash
# safetensors 0.8.0 with jax 0.10.2: `safetensors.flax.save` writes a JAX array whose device layout is column-major (asked for
# with `Format(Layout(...))`, or chosen by XLA for an output of a jitted function) in the order of its bytes in memory under the
# row-major shape: what is loaded has the right shape and the wrong values, without an error. `numpy.asarray` of such an array
# is a view that is not C-contiguous, and the bytes are taken as they lie. Besides, the dictionary that was passed holds NumPy
# arrays afterwards. `numpy.ascontiguousarray` before saving gives the right file.
#
# Seen, for [[0, 1, 2], [3, 4, 5]]:
#   row-major: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
#   column-major: [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]
#   made contiguous: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
#   the caller's dictionary then holds: ndarray
#
# Exit status 0 while this is so, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 jax==0.10.2 jaxlib==0.10.2 flax==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from safetensors import flax, numpy

values = jnp.arange(6.0).reshape(2, 3)
place = SingleDeviceSharding(jax.devices()[0])
column_major = jax.device_put(values, Format(Layout(major_to_minor=(1, 0)), place))
assert (column_major == values).all()
passed = {"x": column_major}
seen = [
    f"row-major: {flax.load(flax.save({'x': values}))['x'].tolist()}",
    f"column-major: {flax.load(flax.save(passed))['x'].tolist()}",
    f"made contiguous: {numpy.load(numpy.save({'x': np.ascontiguousarray(column_major)}))['x'].tolist()}",
    f"the caller's dictionary then holds: {type(passed['x']).__name__}",
]
print(f"safetensors {safetensors.__version__}, jax {jax.__version__}", *seen, sep="\n")
assert seen == [
    "row-major: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]",
    "column-major: [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]",
    "made contiguous: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]",
    "the caller's dictionary then holds: ndarray",
], "changed"
PYTHON
