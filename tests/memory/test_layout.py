"""Tables whose rows lie on many devices, and draws of such a pool, against the same on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memories import mesh_of, normal

from cd_jax.losses import contrastive
from cd_jax.memory.index.nearest import BLOCK
from cd_jax.memory.layout import Layout, counted
from cd_jax.memory.negatives import parts, pool, samplers
from cd_jax.memory.negatives import prior as priors
from cd_jax.memory.negatives.pool import Labels, Pool

CAPACITY = 2500
MESHES = {"one": None, "eight": (8,), "two of eight": (2, 4), "four of eight, across": (4, 2)}


def layout_of(shape, capacity=CAPACITY):
    return Layout(capacity, mesh_of(*shape) if shape else None)


some_meshes = pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)


class TestTables:
    @some_meshes
    def test_each_device_has_its_own_rows(self, shape):
        layout, table = layout_of(shape), np.arange(CAPACITY * 3).reshape(-1, 3)
        placed = layout.place(table, fill=-7)
        assert placed.shape == (layout.rows, 3) and layout.rows % (BLOCK * layout.shards) == 0
        np.testing.assert_array_equal(placed[:CAPACITY], table)
        assert (np.asarray(placed[CAPACITY:]) == -7).all()
        assert {shard.data.shape[0] for shard in placed.addressable_shards} == {layout.rows // layout.shards}
        np.testing.assert_array_equal(layout.on_host(placed)[:CAPACITY], table)

    @pytest.mark.parametrize("before", MESHES.values(), ids=MESHES)
    @some_meshes
    def test_a_table_of_other_devices_fits(self, shape, before):
        table, layout = normal(CAPACITY, 4), layout_of(shape)
        fitted = layout.fit(layout_of(before).place(table, fill=9))
        assert fitted.shape == (layout.rows, 4)
        assert layout.sharding is None or fitted.sharding.is_equivalent_to(layout.sharding, 2)
        np.testing.assert_array_equal(fitted[:CAPACITY], table)

    @some_meshes
    @pytest.mark.parametrize("batch", [16, 5])
    def test_rows_are_taken(self, shape, batch):
        """Also of several columns, and none where there is none."""
        layout, rows = layout_of(shape), np.random.default_rng(0).integers(-2, CAPACITY, (batch, 3)).astype(np.int32)
        take = jax.jit(layout.take, static_argnames="fill")
        for table, fill in ((np.arange(CAPACITY, dtype=np.int32), -1), (normal(CAPACITY, 2, 5), 0)):
            expected = np.where((rows >= 0).reshape(*rows.shape, *[1] * (table.ndim - 1)), table[rows], fill)
            np.testing.assert_array_equal(take(layout.place(table), rows, fill=fill), expected)

    def test_no_table_moves(self):
        """What is sent are the rows that were asked for, each once."""
        layout = layout_of((8,))
        table = jax.ShapeDtypeStruct((layout.rows, 6), jnp.float32, sharding=layout.sharding)
        rows = jax.ShapeDtypeStruct((16, 3), jnp.int32, sharding=layout.sharding)
        text = jax.jit(layout.take).lower(table, rows).compile().as_text()
        assert "f32[2,3,6]" in text and f"f32[{layout.rows},6]" not in text
        assert "reduce-scatter(" in text and "all-to-all" not in text and " all-gather(" in text

    @some_meshes
    def test_uses_are_counted(self, shape):
        layout = layout_of(shape)
        rows = np.random.default_rng(1).integers(-1, CAPACITY, (40, 50)).astype(np.int32)
        counts = layout.zeros(dtype=jnp.int32)
        for _ in range(2):
            counts = counted(counts, rows, layout)
        expected = 2 * np.bincount(rows[rows >= 0], minlength=layout.rows)
        np.testing.assert_array_equal(layout.on_host(counts), expected)


# Draws


def some_labels(rng, capacity, free):
    columns = rng.integers(0, 6, (4, capacity)).astype(np.int32)
    columns[1] = rng.integers(0, capacity, capacity)
    columns[:, rng.permutation(capacity)[:free]] = -1
    return Labels(*columns)


POOLS = {
    # A device whose rows are all the best, as where a memory was filled task by task; few that are held; equal scores.
    "any": lambda rng, vectors: (vectors, 100),
    "in order": lambda rng, vectors: (vectors[np.argsort(-vectors[:, 0])], 100),
    "few": lambda rng, vectors: (vectors, len(vectors) - 7),
    "equal": lambda rng, vectors: (vectors[rng.integers(0, 5, len(vectors))], 100),
    "none": lambda rng, vectors: (vectors, len(vectors)),
}


def a_pool(name, seed=0):
    rng = np.random.default_rng(seed)
    vectors, free = POOLS[name](rng, np.asarray(contrastive.normalize(normal(CAPACITY, 8, seed=seed))))
    labels = some_labels(rng, CAPACITY, free)
    counts = priors.count(priors.empty(6, 6), labels.tasks, labels.answers, (labels.texts >= 0).astype(np.float32))
    evidence = np.abs(normal(2, 6, 4, seed=seed + 1)) * 5
    counts = counts._replace(right=jnp.asarray(evidence[0]), wrong=jnp.asarray(evidence[1]))
    anchors = Labels(*rng.integers(0, 6, (4, 16)).astype(np.int32))
    contexts = normal(16, 8, seed=seed + 2)
    contexts[:4] = [3, 0, 0, 0, 0, 0, 0, 0]
    return vectors, labels, counts, anchors, contexts


@functools.partial(jax.jit, static_argnames=("sampler", "k", "layout", "temperature"))
def drawn_of(key, of, counts, contexts, anchors, sampler, k, temperature, layout):
    return pool.draw(key, of, counts, contexts, anchors, sampler, k, temperature, layout)


def on(layout, vectors, labels):
    place = layout.place
    return Pool(place(vectors), jnp.zeros((layout.rows, 1), jnp.int32), Labels(*(place(x, -1) for x in labels)))


class TestDraws:
    @pytest.mark.parametrize("name", POOLS)
    @pytest.mark.parametrize("sampler", samplers.SAMPLERS)
    def test_eight_devices_draw_as_one(self, sampler, name):
        """And as a pool that nothing fills up."""
        vectors, labels, counts, anchors, contexts = a_pool(name)
        found = []
        for layout in (layout_of(None), layout_of((8,)), layout_of((2, 4))):
            of = on(layout, vectors, labels)
            arguments = (jax.random.key(3), of, counts, contexts, anchors, samplers.SAMPLERS[sampler], 9, 0.1)
            found.append(jax.device_get(drawn_of(*arguments, layout)))
        of = Pool(jnp.asarray(vectors), jnp.zeros((CAPACITY, 1), jnp.int32), labels)
        found.append(jax.device_get(drawn_of(arguments[0], of, *arguments[2:], None)))
        for other in found[1:]:
            there = other.log_weights > -np.inf
            np.testing.assert_array_equal(there, found[0].log_weights > -np.inf)
            np.testing.assert_array_equal(np.where(there, other.candidates, 0), np.where(there, found[0].candidates, 0))
            np.testing.assert_allclose(other.log_weights, found[0].log_weights, rtol=1e-4, atol=1e-4)
            for one, expected in zip(other.mass, found[0].mass, strict=True):
                np.testing.assert_allclose(one, expected, rtol=1e-5)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("temperature", "hardness"), [(0.02, 1.0), (1.0, 0.0), (0.1, 3.0)])
    def test_bayesian_draws_of_every_sharpness(self, seed, temperature, hardness):
        """Sharp proposals are many of nearly the same bound: more than one round is looked at."""
        vectors, labels, counts, anchors, contexts = a_pool("in order", seed)
        sampler = _Bayesian(hardness)
        found = []
        for layout in (layout_of(None), layout_of((8,))):
            of = on(layout, vectors, labels)
            arguments = (jax.random.key(seed), of, counts, contexts, anchors, sampler, 40, temperature)
            found.append(jax.device_get(drawn_of(*arguments, layout)))
        np.testing.assert_array_equal(found[1].candidates, found[0].candidates)
        np.testing.assert_allclose(found[1].log_weights, found[0].log_weights, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("name", ["any", "equal"])
    def test_eight_devices_learn_as_one(self, name):
        vectors, labels, counts, anchors, contexts = a_pool(name)
        retrieved = np.random.default_rng(4).integers(-1, CAPACITY, (16, 3)).astype(np.int32)
        scores = np.random.default_rng(5).uniform(size=16).astype(np.float32)
        learn = jax.jit(pool.learn, static_argnames=("temperature", "layout"))
        one, other = (
            learn(on(layout, vectors, labels), counts, contexts, anchors, retrieved, scores, 0.1, layout)
            for layout in (layout_of(None), layout_of((8,)))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, other)
        assert np.abs(one.right - counts.right).max() > 0

    @pytest.mark.parametrize(("first", "own", "rows"), [(0, 300, 300), (100, 50, 300), (256, 128, 300), (0, 7, 7)])
    def test_a_part_of_the_noise_of_all(self, first, own, rows):
        key = jax.random.key(8)
        noise = jax.random.gumbel(parts._shifted(key, first, rows), (own,), mode="high")
        expected = jax.random.gumbel(key, (rows,), mode="high")[first : first + own]
        np.testing.assert_array_equal(noise[: len(expected)], expected)

    def test_no_score_crosses_the_network(self):
        layout = layout_of((8,))
        vectors, labels, counts, anchors, contexts = a_pool("any")
        of = on(layout, vectors, labels)
        arguments = (jax.random.key(3), of, counts, contexts, anchors, samplers.bayesian, 4, 0.1)
        text = drawn_of.lower(*arguments, layout).compile().as_text()
        own = layout.rows // 8
        sent = [line for line in text.splitlines() if any(f" {kind}(" in line for kind in KINDS)]
        assert sent and not any(f"{size}" in _dimensions(line) for line in sent for size in (own, layout.rows))


KINDS = [f"{kind}{form}" for kind in ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
         for form in ("", "-start")]  # fmt: skip


def _dimensions(line):
    shapes = line.partition(" = ")[2].partition("(")[0]
    return shapes.replace("[", ",").replace("]", ",").replace("{", ",").split(",")


class _Bayesian:
    """With a hardness; compared by it."""

    def __init__(self, hardness):
        self.hardness = hardness

    def __call__(self, *arguments, **options):
        return samplers.bayesian(*arguments, hardness=self.hardness, **options)
