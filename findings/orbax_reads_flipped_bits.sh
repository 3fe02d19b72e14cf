#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (tensorstore 0.1.86): the arrays of a checkpoint carry no checksum that a restore compares.
# Of 40 copies of a checkpoint of one float32 matrix, each with one bit of its data file flipped, as bad storage does, every
# one is restored without an error or a warning, with another value in it; some with values of 1e38 or that are no numbers.
# Whoever copies checkpoints about must keep digests of their own.
#
# Seen: restored as saved: 0, restored otherwise: 40, refused: 0
#
# Exit status 0 while no copy is refused, 1 once this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 tensorstore==0.1.86
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import importlib.metadata
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp

saved = {"w": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}
folder = pathlib.Path(sys.argv[1]) / "checkpoint"
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, saved)
data = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
content, random = data.read_bytes(), np.random.default_rng(1)
assert len(content) > 8000, "the values stand elsewhere now"
counts = {"restored as saved": 0, "restored otherwise": 0, "refused": 0}
for _ in range(40):
    flipped = bytearray(content)
    flipped[random.integers(len(content))] ^= 1 << int(random.integers(8))
    data.write_bytes(bytes(flipped))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = np.asarray(checkpointer.restore(folder, saved)["w"])
    except Exception:
        counts["refused"] += 1
    else:
        counts["restored as saved" if np.array_equal(found, saved["w"]) else "restored otherwise"] += 1
print(*(f"{name} {importlib.metadata.version(name)}" for name in ("orbax-checkpoint", "tensorstore", "jax")), sep=", ")
print(", ".join(f"{name}: {count}" for name, count in counts.items()))
assert counts["refused"] == 0 and counts["restored otherwise"] == 40, "changed"
PYTHON
