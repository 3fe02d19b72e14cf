"""The losses against plain loops in double precision."""

import functools
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cd_jax.losses import cross_entropy

# A program is compiled for each: not many.
SHAPES = st.sampled_from([(1, 1, 2), (1, 5, 7), (2, 3, 5), (3, 4, 128)])


def drawn(shape, seed):
    """Logits, targets and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    batch, length, vocab = shape
    logits = rng.normal(0, 5, shape).astype(np.float32)
    targets = rng.integers(0, vocab, (batch, length)).astype(np.int32)
    weights = (rng.integers(0, 4, (batch, length)) * rng.choice([0.5, 1.0, 2.0])).astype(np.float32)
    return logits, targets, weights


def by_hand(logits, targets, weights):
    total, weight = 0.0, 0.0
    for row in range(targets.shape[0]):
        for t in range(targets.shape[1]):
            scores = logits[row, t].astype(np.float64)
            probability = np.exp(scores[targets[row, t]] - scores.max()) / np.exp(scores - scores.max()).sum()
            total -= float(weights[row, t]) * np.log(probability)
            weight += float(weights[row, t])
    return total / weight if weight else 0.0


@hypothesis.settings(max_examples=100)
@hypothesis.given(SHAPES, st.integers(0, 2**32))
def test_equals_the_loop(shape, seed):
    arrays = drawn(shape, seed)
    loss = cross_entropy.token_weighted_cross_entropy(*arrays)
    assert loss.shape == () and loss.dtype == np.float32
    np.testing.assert_allclose(loss, by_hand(*arrays), rtol=1e-5, atol=1e-6)


def test_without_weight_there_is_no_loss_and_no_gradient():
    logits, targets, weights = drawn((2, 4, 6), 0)
    loss, gradient = jax.value_and_grad(cross_entropy.token_weighted_cross_entropy)(logits, targets, 0 * weights)
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, np.zeros_like(logits))


@hypothesis.settings(max_examples=20)
@hypothesis.given(SHAPES, st.integers(0, 2**32), st.sampled_from([1e-3, 0.1, 3.0, 1e3]))
def test_only_the_proportions_of_the_weights_matter(shape, seed, scale):
    logits, targets, weights = drawn(shape, seed)
    np.testing.assert_allclose(
        cross_entropy.token_weighted_cross_entropy(logits, targets, np.float32(scale) * weights),
        cross_entropy.token_weighted_cross_entropy(logits, targets, weights),
        rtol=1e-5,
    )


@hypothesis.settings(max_examples=20)
@hypothesis.given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-50, 50, width=32)))
def test_what_weighs_nothing_changes_nothing(noise):
    """Padding, whatever the logits there are."""
    logits, targets, weights = drawn((2, 3, 4), 1)
    weights = np.where(np.arange(3) < 2, weights + 1, 0).astype(np.float32)
    noisy = np.where(weights[..., None] == 0, noise, logits)
    expected = cross_entropy.token_weighted_cross_entropy(logits, targets, weights)
    assert cross_entropy.token_weighted_cross_entropy(noisy, targets, weights) == expected


def test_the_gradient_is_that_of_the_softmax():
    """d loss / d logits = w (softmax - onehot) / sum w."""
    logits, targets, weights = drawn((2, 3, 5), 3)
    gradient = jax.grad(cross_entropy.token_weighted_cross_entropy)(logits, targets, weights)
    softmax = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(-1, keepdims=True)
    expected = weights[..., None] * (softmax - np.eye(5)[targets]) / weights.sum()
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


# From the states of which logits are made


def projected(shape, seed, embed=6):
    """States, kernel, targets and weights."""
    rng = np.random.default_rng(seed)
    _, targets, weights = drawn(shape, seed)
    states = rng.normal(0, 2, (*shape[:2], embed)).astype(np.float32)
    return states, rng.normal(0, 1, (embed, shape[2])).astype(np.float32), targets, weights


def plain(states, kernel, targets, weights, z_loss):
    """The same by JAX's own softmax, all logits at once."""
    logits = states @ kernel
    log_z = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return ((log_z - chosen + z_loss * log_z**2) * weights).sum()


@hypothesis.settings(max_examples=20)
@hypothesis.given(SHAPES, st.integers(0, 2**32), st.sampled_from([0.0, 1e-4, 0.3]), st.sampled_from([0, 1, 2, 4, 9]))
def test_a_chunked_loss_and_its_gradients_are_exact(shape, seed, z_loss, chunk):
    states, kernel, targets, weights = projected(shape, seed)
    ours = jax.value_and_grad(cross_entropy.projected_cross_entropy, (0, 1))(
        states, kernel, targets, weights, z_loss, chunk
    )
    theirs = jax.value_and_grad(plain, (0, 1))(states, kernel, targets, weights, z_loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


@hypothesis.settings(max_examples=20)
@hypothesis.given(SHAPES, st.integers(0, 2**32), st.sampled_from([0, 1, 3]))
def test_nats_of_tokens_are_those_of_the_softmax(shape, seed, chunk):
    states, kernel, targets, _ = projected(shape, seed)
    nats = cross_entropy.token_nats(states, kernel, targets, chunk)
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(states @ kernel)), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-4)


def _largest_array(program: str) -> int:
    """Elements of the largest float32 array in a compiled program."""
    shapes = re.findall(r"f32\[([\d,]+)\]", program)
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


def test_float32_logits_of_a_whole_batch_never_exist():
    batch, length, vocab, embed, chunk = 8, 64, 4096, 16, 4
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((batch, length, embed), np.float32), ((embed, vocab), np.float32),
            ((batch, length), np.int32), ((batch, length), np.float32),
        )
    ]  # fmt: skip
    for size, bound in ((chunk, batch * chunk * vocab), (0, batch * length * vocab)):
        step = jax.jit(
            jax.value_and_grad(functools.partial(cross_entropy.projected_cross_entropy, z_loss=0.0, chunk=size))
        )
        assert _largest_array(step.lower(*arrays).compile().as_text()) == bound
