"""Reading inside the training step, cached states and attention against plain ways to the same numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_solver import SHALLOW, TINY, Compiled, make_solver, random_batch, random_passages, random_tokens, tiny

from cd_jax.losses import cross_entropy
from cd_jax.nets.network import T5, Cached
from cd_jax.solver.decoding import EOS_ID, Decoding
from cd_jax.solver.solver import Solver
from cd_jax.step import passages

ORDINALS = np.array([[3, 0], [4, 5]], np.int32)


def on_mesh(data: int, model: int, **options) -> Solver:
    return make_solver(data=data, model=model, devices=data * model, **options)


def placed(solver: Solver, params):
    return jax.device_put(params, jax.tree.map(lambda x: x.sharding, solver.abstract_state().params))


# States that were encoded before


def cached_states(of: np.ndarray) -> Cached:
    """Of passages `[batch, passages, length]`, one after the other."""
    _, network, params = tiny()
    return Cached(network.apply(params, of, method="encode"), of.reshape(len(of), -1))


def test_cached_states_are_read_as_their_passages():
    _, network, params = tiny()
    read, targets = random_passages(8), random_tokens((8, 5), 2)
    apply = functools.partial(network.apply, params, method="states")
    together = apply(read, targets)
    np.testing.assert_allclose(apply(read[:, :1], targets, cached_states(read[:, 1:])), together, atol=1e-5)
    assert np.abs(apply(read[:, :1], targets) - together).max() > 1e-2


@pytest.mark.parametrize(("data", "model"), [pytest.param(1, 1, marks=pytest.mark.slow), (2, 4)])
def test_generations_and_attention_are_the_same_with_cached_states(data, model):
    solver, (_, _, params) = on_mesh(data, model), tiny()
    params, read = placed(solver, params), random_passages(8)
    one, cached = read[:, :1], cached_states(read[:, 1:])
    for method in (Decoding(), Decoding(num_beams=2)):
        tokens, scores = solver.generate_all(params, one, 9, method, cached=cached)
        expected = solver.generate_all(params, read, 9, method)
        np.testing.assert_array_equal(tokens, expected[0])
        np.testing.assert_allclose(scores, expected[1], atol=1e-4)
    written = solver.generate(params, one, 9, cached=cached)
    assert (written != solver.generate(params, one, 9)).any()
    shares = solver.attended(params, read, written)
    np.testing.assert_allclose(solver.attended(params, one, written, cached, groups=2), shares, atol=1e-5)


# How the cross-attention is shared out


def norm(x: np.ndarray, scale) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def shares_of_a_row(params, encoded: np.ndarray, read: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The only decoder layer by hand: encoded `[passages * length, embed]`, read `[passages, length]`."""
    heads = SHALLOW.num_heads
    decoder = jax.tree.map(np.asarray, params["decoder"])
    layer = jax.tree.map(lambda x: x[0], decoder["layers"])

    def split(x):
        return x.reshape(len(x), heads, -1).swapaxes(0, 1)

    def probabilities(name, of, to, bias):
        query, key = (split(x @ layer[name][part]["kernel"]) for x, part in ((of, "query"), (to, "key")))
        return softmax(query @ key.swapaxes(1, 2) + bias)

    x = np.asarray(params["token_embedder"]["embedding"])[[0, *targets[:-1]]]
    y = norm(x, layer["pre_self_attention_layer_norm"]["scale"])
    # So near one another that each distance has a bucket of its own.
    distance = np.arange(len(targets))[:, None] - np.arange(len(targets))
    bias = np.where(distance >= 0, decoder["relpos_bias"]["rel_embedding"][:, np.maximum(distance, 0)], -1e10)
    own = probabilities("self_attention", y, y, bias) @ split(y @ layer["self_attention"]["value"]["kernel"])
    x = x + own.swapaxes(0, 1).reshape(len(x), -1) @ layer["self_attention"]["out"]["kernel"]
    y = norm(x, layer["pre_cross_attention_layer_norm"]["scale"])
    hidden = np.where(read.reshape(-1) == 0, -1e10, 0.0)
    seen = probabilities("encoder_decoder_attention", y, encoded, hidden)
    ends = np.flatnonzero(targets == EOS_ID)
    length = ends[0] + 1 if len(ends) else len(targets)
    return seen[:, :length].mean((0, 1)).reshape(read.shape).sum(-1)


def test_the_shares_of_passages_are_those_of_a_plain_computation():
    solver, network, params = tiny()
    read, generated = random_passages(6, 3), random_tokens((6, 7), 2)
    read[0, 1] = 0
    # Ended at once, in the middle, with a 0 that was generated, and not at all.
    generated[0, 0] = generated[1, 3] = generated[2, 6] = EOS_ID
    generated[3, 2] = 0
    shares = solver.attended(params, read, generated)
    encoded = network.apply(params, read, method="encode")
    expected = [shares_of_a_row(params, *row) for row in zip(encoded, read, generated, strict=True)]
    assert shares.shape == (6, 3) and shares.dtype == np.float32 and shares[0, 1] == 0
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    assert np.ptp(shares) > 0.05
    changed = np.where(np.cumsum(generated == EOS_ID, 1) - (generated == EOS_ID) > 0, 9, generated)
    np.testing.assert_allclose(solver.attended(params, read, changed), shares, atol=1e-5)


def test_shares_sum_to_one_over_layers_passages_and_cached_groups():
    config = dataclasses.replace(TINY, dtype="bfloat16")
    solver = make_solver(config)
    params, network = solver.init(0).params, Compiled(solver.config)
    read = random_passages(4, 4)
    cached = Cached(network.apply(params, read[:, 1:], method="encode"), read[:, 1:].reshape(4, -1))
    shares = solver.attended(params, read[:, :1], random_tokens((4, 5)), cached, groups=3)
    assert shares.shape == (4, 4) and (shares > 0).all()
    np.testing.assert_allclose(shares.sum(1), 1.0, atol=1e-3)


# Reading inside the training step


@dataclasses.dataclass(frozen=True)
class Joined:
    """Reads updates of the memory, and adds a loss that depends on all that `Bound` offers."""

    cached: bool = False
    losses = ("joined_loss",)

    def __call__(self, bound, batch, memory, key):
        updates = memory["updates"][batch["picked"]]
        read = {"encoder_input_tokens": passages.join(batch["prompt"], updates, jnp.array(ORDINALS), 12)}
        if self.cached:
            states = bound.encode(updates.reshape(-1, updates.shape[-1]))
            rows, count, length = updates.shape
            read["encoder_input_tokens"] = batch["prompt"][:, None]
            read["cached"] = Cached(states.reshape(rows, count * length, -1), updates.reshape(rows, -1))
        pooled = bound.pool(batch["prompt"])
        nats = bound.token_nats(batch["prompt"][:, None], updates[:, 0])
        added = memory["weight"] * ((pooled**3).sum(-1) + nats.sum(-1)).mean()
        seen = {"picked": batch["picked"], "pooled": pooled, "drawn": jax.random.uniform(key, (len(pooled),))}
        return batch | read, {"joined_loss": added}, seen


def asked(rows: int = 16) -> tuple[dict, dict]:
    """A batch for `Joined`, and a memory."""
    batch = random_batch(rows)
    del batch["encoder_input_tokens"]
    batch["prompt"] = random_passages(rows, 1, 9, 5)[:, 0]
    batch["picked"] = np.random.default_rng(6).integers(0, 10, (rows, 2)).astype(np.int32)
    memory = {"updates": jnp.asarray(random_passages(10, 1, 5, 7)[:, 0]), "weight": jnp.float32(0.3)}
    return batch, memory


def plain_sgd(learning_rate) -> optax.GradientTransformation:
    """Parameters before less parameters after are the gradient."""
    del learning_rate
    return optax.sgd(1.0)


@functools.cache
def plain_gradients(cached: bool):
    """Cross-entropy, what is added and the gradient of the sum, from the network's logits alone."""
    solver, _, params = tiny()
    network, (batch, memory) = T5(solver.config), asked()
    updates = np.asarray(memory["updates"])[batch["picked"]]
    joined = passages.join(batch["prompt"], updates, ORDINALS, 12)
    prompt, before = batch["prompt"][:, None], batch["decoder_input_tokens"]

    def loss(params):
        apply = functools.partial(network.apply, {"params": params})
        if cached:
            alone = [apply(updates[:, i : i + 1], method="encode") for i in range(2)]
            states = Cached(jnp.concatenate(alone, 1), updates.reshape(len(updates), -1))
            logits = apply(apply(prompt, before, states, method="states"), method="logits")
        else:
            logits = apply(joined, before)
        entropy = cross_entropy.token_weighted_cross_entropy(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        )
        told = updates[:, 0]
        logits = apply(prompt, np.pad(told, ((0, 0), (1, 0)))[:, :-1])
        nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, told)
        pooled = apply(batch["prompt"], method="pool")
        added = 0.3 * ((pooled**3).sum(-1) + nats.sum(-1)).mean()
        return entropy + added, (entropy, added)

    grads, aux = jax.jit(jax.grad(loss, has_aux=True))(params)
    return jax.tree.map(np.asarray, (grads, aux))


@pytest.mark.parametrize(
    ("data", "model", "parts", "cached"),
    [pytest.param(1, 1, 1, False, marks=pytest.mark.slow), (1, 1, 4, True), (2, 4, 2, False)],
)
def test_a_step_that_reads_follows_the_gradient_of_the_sum(data, model, parts, cached):
    config = dataclasses.replace(SHALLOW, logits_chunk=3)
    solver = on_mesh(data, model, config=config, optimizer=plain_sgd, num_microbatches=parts)
    batch, memory = asked()
    state = solver.init(0)
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = solver.train_step(state, batch, 0, Joined(cached), memory)
    expected, (entropy, added) = plain_gradients(cached)
    assert set(metrics) == {"loss", "joined_loss", "grad_norm", "seen"}
    assert float(metrics["loss"]) == pytest.approx(float(entropy), rel=1e-5)
    assert float(metrics["joined_loss"]) == pytest.approx(float(added), rel=1e-5)
    # A microbatch's rows are not its neighbours': what was seen comes back in the order of the batch.
    np.testing.assert_array_equal(metrics["seen"]["picked"], batch["picked"])
    pooled = tiny()[0].embed(tiny()[2], batch["prompt"], 16)
    np.testing.assert_allclose(metrics["seen"]["pooled"], pooled, atol=1e-5)
    found = jax.tree.map(lambda b, a: b - np.asarray(a), before, state.params)
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, atol=2e-5 + 1e-4 * np.abs(e).max()), found, expected)


def test_a_reader_draws_anew_and_drops_nothing():
    solver = make_solver(dataclasses.replace(SHALLOW, dropout_rate=0.5), num_microbatches=2)
    batch, memory = asked(8)
    first, second = [], []
    for seen in (first, second):
        state = solver.init(0)
        pooled = solver.embed(state.params, batch["prompt"], 8)
        for step in range(2):
            # Other values in the memory: nothing is compiled anew.
            state, metrics = solver.train_step(state, batch, 3, Joined(), memory | {"weight": jnp.float32(step)})
            seen.append(jax.tree.map(np.asarray, metrics["seen"]))
    np.testing.assert_allclose(first[0]["pooled"], pooled, atol=1e-5)
    drawn = np.concatenate([seen["drawn"] for seen in first])
    assert len(set(drawn.tolist())) == 16
    np.testing.assert_array_equal(drawn, np.concatenate([seen["drawn"] for seen in second]))
    assert solver._train_step._cache_size() == 1


def test_what_is_read_outside_of_training_goes_on_to_decoding():
    solver, (plain, _, params) = on_mesh(2, 4), tiny()
    params, (batch, memory) = placed(solver, params), asked()
    read, seen = solver.read(params, batch, Joined(), memory)
    tokens = np.asarray(passages.join(batch["prompt"], np.asarray(memory["updates"])[batch["picked"]], ORDINALS, 12))
    np.testing.assert_array_equal(read["encoder_input_tokens"], tokens)
    np.testing.assert_array_equal(seen["picked"], batch["picked"])
    written = solver.generate(params, read["encoder_input_tokens"], 6)
    np.testing.assert_array_equal(written, plain.generate(tiny()[2], tokens, 6))
    shares = solver.attended(params, read["encoder_input_tokens"], written)
    np.testing.assert_allclose(shares, plain.attended(tiny()[2], tokens, written), atol=1e-5)


# Many rows in one call


@pytest.mark.parametrize(("data", "model"), [(1, 1), (2, 4)])
def test_rows_are_encoded_in_one_call(data, model, monkeypatch):
    solver, (_, network, params) = on_mesh(data, model), tiny()
    there, rows = placed(solver, params), random_passages(21, 1, 10)[:, 0]
    calls, encode = [], solver._encode
    monkeypatch.setattr(solver, "_encode", lambda *args, **options: calls.append(options) or encode(*args, **options))
    states = solver.encode_rows(there, rows, 6, "encode")
    pooled = solver.encode_rows(there, jnp.asarray(rows), 6)
    assert len(calls) == 2
    assert isinstance(pooled, jax.Array) and pooled.sharding.is_fully_replicated
    assert len(pooled.sharding.device_set) == data * model
    alone = np.concatenate([network.apply(params, row[None], method="encode_passages") for row in rows])
    assert states.shape == alone.shape
    np.testing.assert_allclose(states, alone, atol=1e-5)
    means = [state[row != 0].mean(0) for state, row in zip(alone, rows, strict=True)]
    np.testing.assert_allclose(pooled, means, atol=1e-5)
    np.testing.assert_array_equal(solver.embed(there, rows, 6), pooled)


def test_encoded_rows_are_as_wide_as_activations_and_embeddings_are_float32():
    solver = make_solver(dataclasses.replace(SHALLOW, dtype="bfloat16"))
    params, rows = solver.init(0).params, random_passages(3, 1, 6)[:, 0]
    assert solver.encode_rows(params, rows, 2, "encode").dtype == jnp.bfloat16
    assert solver.encode_rows(params, rows, 2).dtype == np.float32
