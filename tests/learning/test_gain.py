"""Information gain and the paper's constraints on updates, beside plain loops over examples and formulas of others."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import processes
import pytest

from cd_jax.errors import RequestError
from cd_jax.feed.pipeline import Draw
from cd_jax.learning import gain
from cd_jax.learning.likelihood import Given
from cd_jax.types import Example, Lesson, Segment
from cd_jax.update import constraints


@pytest.fixture(scope="module")
def pairs():
    return [
        (example, update.update)
        for example in processes.source().examples
        for update in processes.updates()[example.example_id]
    ]


@pytest.fixture(scope="module")
def params():
    """Larger than they begin, so that losses differ by more than rounding."""
    return jax.tree.map(lambda x: 2.0 * x, processes.params())


def one_by_one(params, passages, said, answer):
    """The mean cross-entropy of an answer, from the network's logits, without a batch and without padding."""
    encode, solver = processes.vocabulary().encode, processes.solver()
    end = [*encode(f"answer: {answer}"), 1]
    targets = [*encode(said), *end]
    longest = max(map(len, passages))
    tokens = np.array([[row + [0] * (longest - len(row)) for row in passages]], np.int32)
    logits = solver._network.apply({"params": params}, tokens, jnp.array([[0, *targets[:-1]]]))
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.array([targets]))
    return float(nats[0, -len(end) :].mean())


def spelt(prompt, *heads):
    encode = processes.vocabulary().encode
    return [[*sum((encode(head) for head in heads_), []), *encode(prompt), 1] for heads_ in heads]


@pytest.mark.slow
def test_of_what_is_said(params, pairs):
    likelihood = processes.make("cd_finetune").likelihood(params)
    found = gain.gains(likelihood, pairs)
    assert found.shape == (len(pairs),) and len(pairs) > 64  # More than a batch.
    for (example, update), one in list(zip(pairs, found, strict=True))[:: len(pairs) // 4]:
        prompt = spelt(example.prompt, ())
        expected = one_by_one(params, prompt, "", example.answer) - one_by_one(params, prompt, update, example.answer)
        # Differences of losses of tens of nats, in float32.
        assert one == pytest.approx(expected, abs=1e-4)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize("place", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_of_what_is_read(params, pairs, place):
    likelihood = processes.make("cd_memory").likelihood(params)
    assert likelihood.passages == 2
    found = gain.gains(likelihood, pairs[:20], place)
    for (example, update), one in list(zip(pairs, found, strict=False))[::10]:
        heads = [("1:",), ("2:",)]
        alone = one_by_one(params, spelt(example.prompt, *heads), "", example.answer)
        heads[place] = (*heads[place], update)
        assert one == pytest.approx(
            alone - one_by_one(params, spelt(example.prompt, *heads), "", example.answer), abs=1e-4
        )
    assert np.ptp(found) > 1e-4


@pytest.mark.slow
def test_it_is_the_loss_that_training_has(params):
    """With the weight of an update 0, the loss of the training step on the same lesson."""
    student, source = processes.make("cd_finetune"), processes.source()
    example = source.examples[0]
    update = processes.updates()[example.example_id][0].update
    weighed = [
        [Lesson((Segment(update if i == 0 else "no", 0.0), Segment(f"answer: {one.answer}", float(i == 0))), update)]
        for i, one in enumerate(source.examples)
    ]
    one = student.study(source, 40, weighed)
    rows = np.resize(np.arange(len(source.examples), dtype=np.int32), 40)
    rows[1:] = np.maximum(rows[1:], 1)  # The first one once.
    batch = next(iter(one.batches(Draw(rows, rows))))
    state = dataclasses.replace(student.solver.init(0), params=jax.tree.map(jnp.copy, params))
    _, metrics = student.solver.train_step(state, batch, 0, *student.reading(one))
    loss = student.likelihood(params).losses([Given(example.prompt, example.answer, update)])
    assert float(metrics["loss"]) == pytest.approx(loss[0], abs=1e-5)


def test_no_update_gains_nothing(params, pairs):
    for agent in ("cd_finetune", "cd_memory"):
        likelihood = processes.make(agent).likelihood(params)
        np.testing.assert_array_equal(gain.gains(likelihood, [(example, "") for example, _ in pairs[:5]]), 0)


@pytest.mark.slow
def test_what_is_measured(params, pairs):
    likelihood = processes.make("cd_memory").likelihood(params)
    some = pairs[:9]
    numbers = gain.measured(likelihood, some, seed=3)
    first, second = (gain.gains(likelihood, some, place) for place in (0, 1))
    assert numbers["gain"] == pytest.approx(np.mean(first)) and numbers["n"] == 9
    assert numbers["positive"] == sum(one > 0 for one in first) / 9
    assert numbers["passages"] == pytest.approx(np.abs(first - second).mean())
    random, changes = np.random.default_rng((3, 7)), []
    for (example, update), before in zip(some, first, strict=True):
        other = gain.permuted(example, random)
        if other is not None:
            changes.append(abs(gain.gains(likelihood, [(other, update)])[0] - before))
    assert numbers["sentences"] == pytest.approx(np.mean(changes), abs=1e-6) and numbers["sentences"] > 0
    assert numbers == gain.measured(likelihood, some, seed=3)


def test_another_order_of_the_sentences():
    example = Example("a", "t", "One. Two! Three? Four", "Where?", "y")
    random = np.random.default_rng(0)
    orders = {gain.permuted(example, random).context for _ in range(300)}
    assert len(orders) == 23 and all(sorted(order.split()) == ["Four", "One.", "Three?", "Two!"] for order in orders)
    assert gain.permuted(dataclasses.replace(example, context="One."), random) is None
    assert gain.permuted(dataclasses.replace(example, context="One. One."), random) is None


def test_length_and_compression():
    vocabulary = processes.vocabulary()
    updates, contexts = ["Mary is in the kitchen.", "Mary " * 201], ["Mary went to the kitchen. " * 3, "John left."]
    counts = [len(vocabulary.encode(text)) for text in updates]
    assert constraints.length(updates, vocabulary) == {"mean": sum(counts) / 2, "max": max(counts), "over_200": 0.5}
    found = constraints.compression(updates, contexts, vocabulary)
    assert found["tokens"] == pytest.approx(sum(counts) / sum(len(vocabulary.encode(text)) for text in contexts))
    assert found["zlib"] == len(zlib.compress("\n".join(updates).encode(), 9)) / len(
        zlib.compress("\n".join(contexts).encode(), 9)
    )
    assert constraints.redundancy(["the same."] * 100) < 0.1 < constraints.redundancy(["the same."])


def test_passages_that_were_encoded_alone_are_refused(params):
    with pytest.raises(RequestError, match="CACHE_PASSAGES"):
        processes.make("cd_memory", cache_passages=True).likelihood(params)
