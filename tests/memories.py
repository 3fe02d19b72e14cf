"""What the tests of the memory share: entries, keys, and retrieval by a slow loop."""

import jax
import numpy as np

from cd_jax.memory.entries import Entry
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.memory.index.device import DeviceIndex, ScannIndex


def mesh_of(*shape, names=("data", "model")):
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, names[: len(shape)])


# Settings of `EpisodicMemory`: the index, and the devices of the step.
BACK_ENDS = {
    "device": {"index": DeviceIndex},
    "sharded": {"index": DeviceIndex, "mesh": (8,)},
    "whole on a mesh": {"index": DeviceIndex, "mesh": (1, 8)},
    "scann": {"index": ScannIndex},
    "scann on a mesh": {"index": ScannIndex, "mesh": (8,)},
}


def settings_of(back_end):
    settings = BACK_ENDS[back_end]
    return settings | {"mesh": mesh_of(*settings["mesh"])} if "mesh" in settings else settings


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def entries_of(counts):
    """`counts[i]` updates of example i."""
    return [Entry(f"e{i}", f"prompt {i}", f"update {i}/{k}") for i, count in enumerate(counts) for k in range(count)]


def filled(entries, **settings):
    memory = EpisodicMemory(**{"capacity": len(entries)} | settings)
    memory.add(entries)
    return memory


def written(entries, keys, **settings):
    """A memory whose first rows have `keys`; the others, rubbish."""
    memory = filled(entries, **settings)
    padded = np.full((memory.capacity, keys.shape[1]), np.nan, np.float32)
    padded[: len(keys)] = keys
    memory.write(padded)
    return memory


def kin_of(owner, entries):
    """All owners with whom this one has a memory in common, at however many removes."""
    kin, before = {owner}, set()
    while kin != before:
        before = set(kin)
        for entry in entries:
            owners = {entry.owner, *entry.other_owners}
            kin |= owners if owners & kin else set()
    return kin


def retrieve_slowly(memory, embeddings, owners, picked):
    """Rows and distances: one query after the other takes the nearest entry that is not the context's own and not yet
    taken. In double precision."""
    held = np.array([i for i, entry in enumerate(memory.entries) if entry])
    entries = [memory.entries[i] for i in held]
    keys = np.asarray(memory.keys, np.float64)[held]
    mean = keys.mean(0)
    _, vectors = np.linalg.eigh(np.cov(keys, rowvar=False))
    axes = np.zeros((memory.num_axes, keys.shape[1]))
    some = min(memory.num_axes, keys.shape[1], len(keys) - 1)
    axes[:some] = vectors.T[::-1][:some]
    rows = []
    for embedding, owner, asked in zip(np.asarray(embeddings, np.float64), owners, np.asarray(picked), strict=True):
        own = kin_of(owner, entries) if memory.leave_out_own else set()
        taken = []
        for query in asked:
            point = mean + axes[query - 1] * (axes[query - 1] @ (embedding - mean)) if query else embedding
            distances = ((keys - point) ** 2).sum(-1)
            free = [i for i, e in enumerate(entries) if e.owner not in own and held[i] not in [row for row, _ in taken]]
            nearest = min(free, key=distances.__getitem__, default=None)
            taken.append((-1, np.inf) if nearest is None else (held[nearest], distances[nearest]))
        rows.append(taken)
    return np.array([[row for row, _ in taken] for taken in rows]), np.array([[d for _, d in t] for t in rows])
