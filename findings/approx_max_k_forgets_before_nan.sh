#!/usr/bin/env bash
# jax 0.10.2 (jaxlib 0.10.2), CPU: `jax.lax.approx_max_k(scores, k=1)` with a NaN among the scores returns the largest of what
# comes after the last NaN, and forgets all before it. With k=2 and more, as with `jax.lax.top_k`, the NaN itself comes first.
# One broken score thus makes a nearest-neighbour search with k=1 miss its nearest key, without a NaN in what it returns.
#
# Seen, for the scores 5, 4, NaN, 1, 2:
#   k=1: values [2.0] indices [4]
#   k=2: values [nan, 5.0] indices [2, 0]
#   top_k, k=1: values [nan] indices [2]
#
# Exit status 0 while this is so, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp

scores = jnp.array([[5.0, 4.0, jnp.nan, 1.0, 2.0]])
seen = []
for name, search in (
    ("k=1", lambda: jax.lax.approx_max_k(scores, 1)),
    ("k=2", lambda: jax.lax.approx_max_k(scores, 2)),
    ("top_k, k=1", lambda: jax.lax.top_k(scores, 1)),
):
    values, indices = search()
    seen.append(f"{name}: values {values[0].tolist()} indices {indices[0].tolist()}")
print(jax.__version__, *seen, sep="\n")
assert seen == [
    "k=1: values [2.0] indices [4]",
    "k=2: values [nan, 5.0] indices [2, 0]",
    "top_k, k=1: values [nan] indices [2]",
], "changed"
PYTHON
