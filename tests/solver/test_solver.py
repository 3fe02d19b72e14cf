"""The solver against slow and plain ways to the same numbers, and on several meshes."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from cd_jax.errors import RequestError
from cd_jax.nets.config import T5Config
from cd_jax.nets.network import T5
from cd_jax.solver.decoding import EOS_ID
from cd_jax.solver.partitioning import MODEL_RULES, Partitioner
from cd_jax.solver.solver import Solver, TrainState

TINY = T5Config(
    emb_dim=32, num_heads=8, head_dim=4, mlp_dim=48, num_encoder_layers=2, num_decoder_layers=2, dropout_rate=0.0
)
# Compiling takes most of the time: one layer where two show nothing more.
SHALLOW = dataclasses.replace(TINY, num_encoder_layers=1, num_decoder_layers=1)
VOCAB = 128
MESHES = [(1, 8), (2, 4), (8, 1)]


def make_solver(
    config: T5Config = SHALLOW, data: int = 1, model: int = 1, devices: int = 1, rules=MODEL_RULES, **options
) -> Solver:
    options = {"learning_rate": optax.constant_schedule(0.01)} | options
    partitioner = Partitioner(data, model, rules, jax.devices()[:devices])
    return Solver(config, VOCAB, partitioner=partitioner, **options)


class Compiled:
    """`T5.apply` under jit, without the solver around it."""

    def __init__(self, config: T5Config):
        self._apply = jax.jit(T5(config).apply, static_argnames="method")

    def apply(self, params: dict, *tokens: np.ndarray, method: str | None = None) -> np.ndarray:
        return np.asarray(self._apply({"params": params}, *tokens, method=method))


@functools.cache
def tiny() -> tuple[Solver, Compiled, dict]:
    """A solver on one device, its network under jit, and parameters that no test may change."""
    solver = make_solver()
    return solver, Compiled(solver.config), solver.init(0).params


def random_tokens(shape: tuple[int, ...], seed: int = 0, vocab: int = VOCAB) -> np.ndarray:
    """Token ids without padding or end of sequence."""
    return np.random.default_rng(seed).integers(2, vocab, shape).astype(np.int32)


def random_passages(
    batch: int = 6, passages: int = 3, length: int = 10, seed: int = 0, vocab: int = VOCAB
) -> np.ndarray:
    """Passages `[batch, passages, length]` of all lengths from 1 on, padded with 0."""
    lengths = np.random.default_rng(seed + 1).integers(1, length + 1, (batch, passages, 1))
    return np.where(np.arange(length) < lengths, random_tokens((batch, passages, length), seed, vocab), 0)


def random_batch(rows: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    targets = random_passages(rows, 1, 7, seed + 2)[:, 0]
    return {
        "encoder_input_tokens": random_passages(rows, 2, 9, seed),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_loss_weights": (targets != 0).astype(np.float32),
    }


def train(solver: Solver, batches: list[dict], seed: int = 0) -> tuple[TrainState, np.ndarray]:
    """The state after these batches, and the loss at each."""
    state, losses = solver.init(0), []
    for batch in batches:
        state, metrics = solver.train_step(state, batch, seed)
        losses.append(float(metrics["loss"]))
    return state, np.array(losses)


# Against plain ways to the same numbers


def test_passages_are_encoded_alone():
    _, network, params = tiny()
    passages = random_passages()
    encode = functools.partial(network.apply, params, method="encode")
    together = encode(passages)
    alone = np.concatenate([encode(passages[:, i : i + 1]) for i in range(passages.shape[1])], axis=1)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_decoder_reads_every_passage():
    _, network, params = tiny()
    passages, targets = random_passages(), random_tokens((6, 5), 2)
    before = network.apply(params, passages, targets)
    for i in range(passages.shape[1]):
        other = passages.copy()
        other[:, i, 0] = other[:, i, 0] % (VOCAB - 2) + 2
        after = network.apply(params, other, targets)
        assert (np.abs(after - before).max((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("wider", [((0, 0), (0, 0), (0, 5)), ((0, 0), (0, 2), (0, 0))], ids=["longer", "empty passage"])
def test_padding_changes_nothing(wider):
    _, network, params = tiny()
    passages, targets = random_passages(), random_tokens((6, 5), 2)
    plain = network.apply(params, passages, targets)
    padded = network.apply(params, np.pad(passages, wider), targets)
    np.testing.assert_allclose(plain, padded, atol=1e-5)


def test_the_decoder_does_not_look_ahead():
    _, network, params = tiny()
    passages, targets = random_passages(), random_tokens((6, 8), 2)
    other = targets.copy()
    other[:, 4:] = random_tokens((6, 4), 9)
    one, two = (network.apply(params, passages, t) for t in (targets, other))
    np.testing.assert_allclose(one[:, :4], two[:, :4], atol=1e-5)
    assert np.abs(one[:, 4:] - two[:, 4:]).max() > 1e-2


def _slow_greedy(network: Compiled, params, passages: np.ndarray, max_length: int) -> np.ndarray:
    """No cache: all that was generated is read anew for every token."""
    generated = np.zeros((len(passages), max_length), np.int32)
    done = np.zeros(len(passages), bool)
    for position in range(max_length):
        read = np.pad(generated, ((0, 0), (1, 0)))[:, :max_length]
        logits = network.apply(params, passages, read)[:, position]
        generated[:, position] = np.where(done, 0, np.argmax(logits, -1))
        done |= generated[:, position] == EOS_ID
    return generated


def test_greedy_with_a_cache_equals_teacher_forced_argmax():
    # A vocabulary of 16 words, so that some generations end early and some do not.
    config = dataclasses.replace(SHALLOW, vocab_size=16)
    solver = make_solver(config)
    params = solver.init(1).params
    # So that the end of sequence wins in about half of what random parameters write.
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, EOS_ID].multiply(3.0)
    passages = random_passages(32, 2, 8, vocab=16)
    generated = solver.generate(params, passages, 12)
    ended = (generated == EOS_ID).any(1)
    assert 0 < ended.sum() < 32
    assert all((row[list(row).index(EOS_ID) + 1 :] == 0).all() for row in generated[ended])
    np.testing.assert_array_equal(generated, _slow_greedy(Compiled(solver.config), params, passages, 12))


def test_bfloat16_activations_stay_near_float32():
    _, network, params = tiny()
    half = make_solver(dataclasses.replace(SHALLOW, dtype="bfloat16"))
    passages, targets = random_passages(), random_tokens((6, 5), 2)
    full = network.apply(params, passages, targets)
    rough = Compiled(half.config).apply(params, passages, targets)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - full).max() < 0.05 * np.abs(full).max()
    assert half.generate(params, passages, 5).shape == (6, 5)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(half.init(0).params))


def test_pooling_is_the_mean_over_real_tokens():
    solver, network, params = tiny()
    rows = random_passages(7, 1, 12)[:, 0]
    states = network.apply(params, rows, method="encode_passages")
    means = np.stack([state[row != 0].mean(0) for state, row in zip(states, rows, strict=True)])
    # Seven rows do not fill two batches of four.
    pooled = solver.embed(params, rows, batch_size=4)
    np.testing.assert_allclose(pooled, means, atol=1e-5)
    np.testing.assert_allclose(solver.embed(params, np.pad(rows, ((0, 0), (0, 6))), 4), pooled, atol=1e-5)


# On meshes

SPECS = {
    "token_embedder/embedding": ("model", None),
    "logits_dense/kernel": (None, "model"),
    "attention/query/kernel": (None, "model"),
    "attention/key/kernel": (None, "model"),
    "attention/value/kernel": (None, "model"),
    "attention/out/kernel": ("model", None),
    "mlp/wi_0/kernel": (None, "model"),
    "mlp/wi_1/kernel": (None, "model"),
    "mlp/wo/kernel": ("model", None),
    "scale": (None,),
    "rel_embedding": ("model", None),
}


def _expected(path: str) -> tuple:
    """The layers of a stack are not sharded; what is in them is."""
    [spec] = [spec for end, spec in SPECS.items() if path.endswith(end)]
    return (None, *spec) if "/layers/" in path else spec


@pytest.mark.parametrize(("data", "model"), MESHES)
def test_kernels_lie_along_the_model_axis(data, model):
    state = make_solver(data=data, model=model, devices=8).init(0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = "/".join(key.key for key in path)
        spec = _expected(name)
        assert leaf.sharding.is_equivalent_to(
            jax.sharding.NamedSharding(leaf.sharding.mesh, PartitionSpec(*spec)), leaf.ndim
        ), name
        expected = tuple(n // model if axis == "model" else n for n, axis in zip(leaf.shape, spec, strict=True))
        assert {shard.data.shape for shard in leaf.addressable_shards} == {expected}, name


@pytest.mark.parametrize(("data", "model"), [(2, 4), (1, 8)])
def test_the_state_of_adafactor_lies_like_its_parameter(data, model):
    state = make_solver(data=data, model=model, devices=8).init(0)
    params = dict(jax.tree_util.tree_leaves_with_path(state.params))
    alike = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        owner = next((p for p in params if path[-len(p) :] == p), None)
        if owner and params[owner].shape == leaf.shape:
            alike += not leaf.sharding.is_fully_replicated
            assert leaf.sharding.is_equivalent_to(params[owner].sharding, leaf.ndim), path
        else:
            assert leaf.sharding.is_fully_replicated, path
    assert alike == sum(not leaf.sharding.is_fully_replicated for leaf in params.values())


def test_factored_state_of_adafactor_is_replicated():
    # optax factors parameters of which two axes are at least 128 long.
    config = dataclasses.replace(SHALLOW, emb_dim=128, mlp_dim=256)
    state = make_solver(config, data=2, model=4, devices=8).init(0)
    factors = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape in [(1, 256), (1, 128)]]
    assert any(leaf.shape == (1, 256) for leaf in factors)
    assert all(leaf.sharding.is_fully_replicated for leaf in factors if leaf.shape == (1, 256))


def test_parameters_do_not_depend_on_the_mesh():
    one = make_solver().init(3).params
    eight = make_solver(data=2, model=4, devices=8).init(3).params
    jax.tree.map(np.testing.assert_array_equal, one, eight)


@functools.cache
def _losses_on(data: int, model: int) -> np.ndarray:
    batches = [random_batch(16, seed) for seed in range(20)]
    return train(make_solver(data=data, model=model, devices=data * model), batches)[1]


@pytest.mark.parametrize(
    ("data", "model"), [pytest.param(8, 1, marks=pytest.mark.slow), (2, 4), pytest.param(1, 8, marks=pytest.mark.slow)]
)
def test_eight_devices_train_as_one(data, model):
    one = _losses_on(1, 1)
    assert np.ptp(one) > 0.1
    np.testing.assert_allclose(_losses_on(data, model), one, atol=1e-5)


@pytest.mark.parametrize(("data", "model"), MESHES)
def test_eight_devices_decode_and_embed_as_one(data, model):
    solver, _, params = tiny()
    eight = make_solver(data=data, model=model, devices=8)
    passages = random_passages(8)
    there = jax.device_put(params, jax.tree.map(lambda x: x.sharding, eight.abstract_state().params))
    np.testing.assert_array_equal(eight.generate(there, passages, 9), solver.generate(params, passages, 9))
    rows = passages[:, 0]
    np.testing.assert_allclose(eight.embed(there, rows, 8), solver.embed(params, rows, 8), atol=1e-5)


@pytest.mark.parametrize(("data", "model"), [(3, 1), (-1, 3), (4, 4), (-1, 0), (0, 8), (-2, -4)])
def test_a_mesh_that_does_not_fit_is_refused(data, model):
    with pytest.raises(RequestError, match="MESH_MODEL"):
        Partitioner(data, model).mesh  # noqa: B018


def test_a_mesh_takes_all_devices():
    assert dict(Partitioner(-1, 2).mesh.shape) == {"data": 4, "model": 2}
    assert dict(Partitioner(2, 1, devices=jax.devices()[:2]).mesh.shape) == {"data": 2, "model": 1}


def test_every_logical_axis_has_a_rule():
    network, tokens = T5(tiny()[0].config), np.zeros((1, 1, 4), np.int32)
    boxed = jax.eval_shape(lambda: network.init(jax.random.key(0), tokens, tokens[0]))["params"]
    specs = jax.tree.leaves(nn.get_partition_spec(boxed), is_leaf=lambda x: isinstance(x, PartitionSpec))
    assert {name for spec in specs for name in spec} <= {name for name, _ in MODEL_RULES}


# Training


def test_training_learns_one_batch_by_heart():
    batch = random_batch()
    _, losses = train(make_solver(learning_rate=optax.constant_schedule(0.03)), [batch] * 60)
    assert losses[-1] < 0.2 * losses[0]


def test_dropout_trains_and_depends_on_seed_and_step_alone():
    solver = make_solver(dataclasses.replace(SHALLOW, dropout_rate=0.1), learning_rate=optax.constant_schedule(0.03))
    batch = random_batch()
    state, losses = train(solver, [batch] * 60, seed=5)
    again, losses_again = train(solver, [batch] * 60, seed=5)
    jax.tree.map(np.testing.assert_array_equal, state, again)
    np.testing.assert_array_equal(losses, losses_again)
    assert losses[-5:].mean() < 0.5 * losses[0]
    # The first loss is of the same parameters: only the dropped units differ.
    assert train(solver, [batch], seed=6)[1][0] != losses[0]
    later = solver.init(0).replace(step=np.int32(7))
    assert float(solver.train_step(later, batch, 5)[1]["loss"]) != losses[0]


def test_evaluation_drops_nothing():
    solver = make_solver(dataclasses.replace(SHALLOW, dropout_rate=0.5))
    plain, _, params = tiny()
    passages = random_passages()
    np.testing.assert_array_equal(solver.generate(params, passages, 6), plain.generate(params, passages, 6))
    np.testing.assert_array_equal(solver.embed(params, passages[:, 0], 6), plain.embed(params, passages[:, 0], 6))


def test_activations_are_constrained_on_the_mesh():
    # Flax leaves constraints out, without a word, where it finds no mesh.
    solver = make_solver(data=2, model=4, devices=8)
    halve = jax.jit(lambda x: nn.with_logical_constraint(x / 2, ("batch", "length", "mlp")))
    with solver._on_mesh():
        spec = halve(np.ones((8, 3, 16), np.float32)).sharding.spec
    assert tuple(spec) == ("data", None, "model")


def test_microbatches_add_up_to_the_batch():
    batch = random_batch(8)
    whole, parts = (make_solver(num_microbatches=count) for count in (1, 4))
    (one, first), (four, second) = train(whole, [batch] * 3), train(parts, [batch] * 3)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one.params, four.params)


@pytest.mark.slow
def test_scanned_unrolled_and_rematerialised_layers_train_alike():
    batches = [random_batch(8, seed) for seed in range(3)]
    deep = dataclasses.replace(TINY, dropout_rate=0.1)
    plain = train(make_solver(deep), batches, seed=4)[1]
    for changes in ({"scan_layers": False}, {"remat_policy": "minimal"}, {"remat_policy": "full", "logits_chunk": 2}):
        same = train(make_solver(dataclasses.replace(deep, **changes)), batches, seed=4)[1]
        np.testing.assert_allclose(same, plain, rtol=1e-5, err_msg=str(changes))


def test_z_loss_adds_the_squared_logarithm_of_the_softmaxs_sum():
    batch = random_batch()
    (_, with_z), (_, without) = (train(make_solver(z_loss=z), [batch]) for z in (0.1, 0.0))
    _, network, params = tiny()
    logits = network.apply(params, batch["encoder_input_tokens"], batch["decoder_input_tokens"])
    squares = np.asarray(jax.nn.logsumexp(logits, -1))[batch["decoder_loss_weights"] > 0] ** 2
    assert with_z[0] - without[0] == pytest.approx(0.1 * squares.mean(), rel=1e-3)


FSDP = [("batch", "data"), ("embed", "data"), ("vocab", "data"), ("mlp", "data"), ("joined_kv", "data")]
BOTH = [(name, "data" if name.startswith("embed") else axis) for name, axis in MODEL_RULES]


TWO = [(name, ("data", "model") if name == "batch" else None if name == "heads" else axis) for name, axis in BOTH]


@pytest.mark.parametrize(
    ("rules", "data", "model"),
    [pytest.param(FSDP, 8, 1, marks=pytest.mark.slow), pytest.param(BOTH, 2, 4, marks=pytest.mark.slow), (TWO, 2, 4)],
    ids=["fsdp", "fsdp_model", "fsdp_2d"],
)
def test_fully_sharded_devices_train_as_one(rules, data, model):
    config = dataclasses.replace(SHALLOW, emb_dim=128, mlp_dim=128)
    batches = [random_batch(16, seed) for seed in range(3)]
    solver = make_solver(config, data=data, model=model, devices=8, rules=rules)
    state, losses = train(solver, batches)
    np.testing.assert_allclose(losses, train(make_solver(config), batches)[1], atol=1e-4)
    kernel = state.params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(1, 128 // data, 128 // model)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 6}, "does not divide the 6 heads"),
        ({"mlp_dim": 50}, r"decoder/layers/mlp/wi_0/kernel \[1, 32, 50\].*'mlp', 50"),
        ({"vocab_size": 126}, r"logits_dense/kernel \[32, 126\].*'vocab', 126"),
    ],
)
def test_a_mesh_that_does_not_divide_the_network_is_refused(changes, said):
    with pytest.raises(RequestError, match=said):
        make_solver(dataclasses.replace(SHALLOW, **changes), data=2, model=4, devices=8)


@pytest.mark.parametrize("rules", [[("embed", "modle")], [("embed",)]])
def test_rules_that_name_no_axis_of_the_mesh_are_refused(rules):
    with pytest.raises(RequestError, match="logical_axis_rules"):
        make_solver(rules=rules)


@pytest.mark.parametrize("changes", [{"remat_policy": "some"}, {"dtype": "float16"}, {"mlp_activations": ("tanh",)}])
def test_a_config_that_names_what_there_is_not_is_refused(changes):
    with pytest.raises(RequestError, match=f"T5Config.{next(iter(changes))}"):
        dataclasses.replace(SHALLOW, **changes)
