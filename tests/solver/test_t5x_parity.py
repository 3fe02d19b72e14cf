"""The solver's network against T5X's, on the same parameters and tokens: logits, gradients, greedy tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from cd_jax.nets.config import T5Config
from cd_jax.nets.network import T5
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver
from cd_jax.weights import names

pytest.importorskip("t5x.models", reason="T5X is not installed (from its repository: it is not on PyPI)")

T5_1_1 = T5Config(
    vocab_size=128,
    emb_dim=32,
    num_heads=4,
    head_dim=8,
    mlp_dim=48,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dropout_rate=0.0,
)
NETWORKS = {
    "t5_1_1": {},
    "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "gated_tied": {"logits_via_embedding": True},
    "ul2": {"mlp_activations": ("silu", "linear")},
    "relu_untied": {"mlp_activations": ("relu",), "num_heads": 2},
}


@pytest.fixture(autouse=True)
def lenient_ranks():
    """T5X relies on broadcasting, which our tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def networks(network: str):
    """Ours, T5X's, and parameters of each."""
    from t5x.examples.t5 import network as t5x_network

    config = dataclasses.replace(T5_1_1, **NETWORKS[network])
    fields = {field.name for field in dataclasses.fields(t5x_network.T5Config)} & vars(config).keys()
    theirs = t5x_network.Transformer(t5x_network.T5Config(**{name: getattr(config, name) for name in fields}))
    solver = Solver(
        config,
        0,
        learning_rate=optax.constant_schedule(0.0),
        optimizer=optax.sgd,
        partitioner=Partitioner(devices=jax.devices()[:1]),
    )
    rng = np.random.default_rng(0)

    def fill(path, x):
        if path[-1].key == "scale":
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        kind, leaf = path[-2].key, path[-1].key
        scale = x.shape[-2] ** -0.5 if leaf == "kernel" else {"embedding": 0.1, "rel_embedding": 1.0}[leaf]
        # Otherwise a network with random parameters says the same of everything: attention must outweigh the rest.
        scale *= {"out": 3.0, "wo": 0.3}.get(kind, 1.0)
        return (scale * rng.normal(size=x.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(fill, solver.abstract_state().params)
    return solver, theirs, params, traverse_util.unflatten_dict(dict(names.unstack(params)), sep="/")


def padded(rows: int, length: int, seed: int) -> np.ndarray:
    """Tokens `[rows, length]` of all lengths from 2 on."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length + 1, (rows, 1))
    return np.where(np.arange(length) < lengths, rng.integers(2, 128, (rows, length)), 0).astype(np.int32)


# More than 128 tokens: beyond the greatest distance of the relative position bias.
INPUTS, TARGETS = padded(6, 150, 1), padded(6, 140, 2)
DECODER_INPUTS = np.pad(TARGETS, ((0, 0), (1, 0)))[:, :-1]


def our_logits(solver: Solver, params) -> jax.Array:
    return T5(solver.config).apply({"params": params}, INPUTS[:, None], DECODER_INPUTS)


def their_logits(theirs, params) -> jax.Array:
    return theirs.apply({"params": params}, INPUTS, DECODER_INPUTS, TARGETS, enable_dropout=False)


@pytest.mark.parametrize("network", NETWORKS)
def test_logits(network):
    solver, theirs, ours, flat = networks(network)
    got = jax.jit(functools.partial(our_logits, solver))(ours)
    expected = jax.jit(functools.partial(their_logits, theirs))(flat)
    real = TARGETS != 0
    assert np.asarray(expected)[real].std() > 0.03
    np.testing.assert_allclose(np.asarray(got)[real], np.asarray(expected)[real], atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients(network):
    solver, theirs, ours, flat = networks(network)
    weights = (np.random.default_rng(3).normal(size=(*TARGETS.shape, 128)) * (TARGETS != 0)[..., None]).astype(
        np.float32
    )

    def weighted(logits, params):
        return jnp.mean(jax.nn.log_softmax(logits(params)) * weights)

    got = jax.jit(jax.grad(functools.partial(weighted, functools.partial(our_logits, solver))))(ours)
    expected = jax.jit(jax.grad(functools.partial(weighted, functools.partial(their_logits, theirs))))(flat)
    expected = traverse_util.flatten_dict(expected, sep="/")
    got = dict(names.unstack(got))
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        difference = np.linalg.norm(gradient - expected[name])
        assert difference <= 1e-4 * np.linalg.norm(expected[name]), name


@pytest.mark.parametrize("network", NETWORKS)
def test_greedy_tokens(network):
    import seqio
    from t5x import decoding, models

    solver, theirs, ours, flat = networks(network)
    vocabulary = seqio.PassThroughVocabulary(128, eos_id=1)
    model = models.EncoderDecoderModel(
        theirs, vocabulary, vocabulary, None, decode_fn=functools.partial(decoding.temperature_sample, temperature=0.0)
    )
    batch = {"encoder_input_tokens": INPUTS, "decoder_input_tokens": np.zeros((6, 24), np.int32)}
    expected = np.asarray(jax.jit(model.predict_batch)(flat, batch))
    assert len(np.unique(expected, axis=0)) > 2 and len(np.unique(expected)) > 5
    np.testing.assert_array_equal(solver.generate(ours, INPUTS[:, None], 24), expected)
