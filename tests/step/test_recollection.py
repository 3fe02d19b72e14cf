"""The memory's tables on the devices, and what attempts teach: with made-up keys, so that nothing is encoded."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tensorflow as tf
from memories import normal
from test_solver import make_solver

from cd_jax.feed import lessons
from cd_jax.feed.tokens import TokenisedExamples
from cd_jax.memory.entries import Entry
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.nets.config import T5Config
from cd_jax.step.recall import Recollection
from cd_jax.step.terms.contrastive import Contrast
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Attempt, Example, Lesson, Segment

CONFIG = T5Config(emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_decoder_layers=1)
PLACES = ("kitchen", "garden", "office")
# Two tasks, three answers. Examples 0 and 3 are explained by the same words.
EXAMPLES = [
    Example(f"e{i}", f"t{i % 2}", f"Mary went to the {PLACES[i % 3]}. Ann slept {i} times.", "Where is Mary?", answer)
    for i, answer in enumerate(PLACES * 2)
]
TEXTS = [f"Mary is in the {PLACES[i % 3]}." for i in range(6)]
# Row 2 is free; row 7 is of an example that is not studied.
ROWS = [*((EXAMPLES[i], TEXTS[i]) for i in (0, 1, 2, 3, 4)), (EXAMPLES[4], "She went there."), None]
STRANGER = Entry("stranger", "Ann slept.", "Ann is tired.", task="t9", answer="bed")


def entry_of(example, update):
    return Entry(example.example_id, example.prompt, update, task=example.task, answer=example.answer)


@pytest.fixture(scope="module")
def vocabulary():
    return vocabularies.load()


@pytest.fixture(scope="module")
def source(vocabulary):
    inputs = tf.ragged.constant([[*vocabulary.encode(example.prompt), 1] for example in EXAMPLES], tf.int32)
    targets = tf.ragged.constant([vocabulary.encode(f"answer: {example.answer}") for example in EXAMPLES], tf.int32)
    return TokenisedExamples(EXAMPLES, inputs, targets)


def learnt_of(vocabulary, against=((),) * 6):
    """One lesson of each example; `against`: what stands against it."""
    told = [
        [Lesson((Segment(text), Segment(f"answer: {example.answer}")), text, tuple(wrong))]
        for example, text, wrong in zip(EXAMPLES, TEXTS, against, strict=True)
    ]
    return lessons.tokenise(told, vocabulary)


@pytest.fixture(scope="module")
def learnt(vocabulary):
    return learnt_of(vocabulary)


@pytest.fixture
def recollection(vocabulary):
    solver = make_solver(CONFIG)
    memory = EpisodicMemory(capacity=9, num_queries=2, mesh=solver.mesh)
    memory.add([entry_of(*row) for row in ROWS if row] + [Entry("gone", "p", "u"), STRANGER])
    memory.remove([6])
    memory.write(normal(9, 16))
    lengths = {"inputs": 64, "targets": 32}
    made = Recollection(memory, vocabulary, solver, lengths, 8, False, (Contrast(weight=0.5),))
    # As if they were encoded.
    made._vectors = made.memory.layout.place(normal(9, 16, seed=1))
    return made


HELD = [0, 1, 2, 3, 4, 5, 7]
FREE = [6, 8]


def feed_of(recollection, source, learnt, length=24):
    """What the tables need of a `Feed`."""
    split = recollection.split(source, learnt)
    return types.SimpleNamespace(split=split, lessons=learnt, lengths={"inputs": length}, question=3)


def memories_of(recollection, source, learnt):
    recollection.study(source, learnt)
    return recollection.reading(feed_of(recollection, source, learnt), training=True)[1]


def test_the_same_number_for_the_same_name(recollection, source, learnt):
    memories = memories_of(recollection, source, learnt)
    split = memories.split
    entries, labels = recollection.memory.entries, memories.candidates.labels
    assert np.asarray(labels.texts)[FREE].tolist() == [-1, -1]
    for row in HELD:
        for i, example in enumerate(EXAMPLES):
            assert (labels.texts[row] == split.texts[i]) == (entries[row].update == TEXTS[i])
            assert (labels.prompts[row] == split.prompts[i]) == (entries[row].prompt == example.prompt)
            assert (labels.tasks[row] == split.tasks[i]) == (entries[row].task == example.task)
            assert (labels.answers[row] == split.answers[i]) == (entries[row].answer == example.answer)
            assert (memories.store.owners[row] == split.owners[i]) == (entries[row].owner == example.family)
    assert (memories.store.owners[np.array(FREE)] == -1).all()
    counts = np.asarray(memories.taught.counts.answers)
    assert counts.sum() == len(HELD)
    for i in range(6):
        same = sum((entries[row].task, entries[row].answer) == (EXAMPLES[i].task, EXAMPLES[i].answer) for row in HELD)
        assert counts[split.tasks[i], split.answers[i]] == same


def test_what_a_split_brings_later_does_not_change_the_numbers(recollection, source, learnt):
    recollection.study(source, learnt)
    before = recollection.split(source, learnt)
    other = TokenisedExamples([dataclasses.replace(EXAMPLES[0], task="new", answer="new")], *source_rows(source))
    recollection.split(other, learnt)
    jax.tree.map(np.testing.assert_array_equal, recollection.split(source, learnt), before)


def source_rows(source):
    return source.inputs[:1], source.targets[:1]


def test_tokens_are_those_of_the_updates(recollection, source, learnt, vocabulary):
    memories = memories_of(recollection, source, learnt)
    for row, entry in enumerate(recollection.memory.entries):
        tokens = np.asarray(memories.candidates.tokens[row])
        assert tokens[tokens != 0].tolist() == (vocabulary.encode(entry.update) if entry else [])
    assert [row.numpy().tolist() for row in learnt.update_tokens] == [vocabulary.encode(text) for text in TEXTS]
    texts = np.asarray(memories.split.texts)
    assert [[texts[i] == texts[j] for j in range(6)] for i in range(6)] == [[a == b for b in TEXTS] for a in TEXTS]


def attempted(i, generation, correct):
    return Attempt(EXAMPLES[i], generation, generation.rpartition("answer: ")[2], correct, float(correct), [], None)


def test_what_attempts_teach(recollection, source, learnt, vocabulary):
    recollection.study(source, learnt)
    feed = feed_of(recollection, source, learnt)
    before = jax.device_get(recollection._taught)
    assert not before.wrong.any()
    tried = [
        attempted(1, "Mary is in the office. answer: office", False),
        attempted(4, "She went there. answer: garden", True),
        attempted(2, "answer: garden", False),
        attempted(5, "Ann slept " + "and slept " * 50 + "answer: garden", False),
        # The teacher says so, too.
        attempted(3, f"{TEXTS[3]} answer: garden", False),
    ]
    rows = np.array([[0, 7], [1, 3], [-1, -1], [2, -1], [-1, -1]], np.int32)
    seen = {"contexts": normal(5, 16, seed=2), "rows": rows}
    recollection.learn(feed, np.array([1, 4, 2, 5, 3], np.int32), seen, tried)
    after = jax.device_get(recollection._taught)
    said = [vocabulary.decode(row[row != 0].tolist()) for row in after.wrong]
    assert said[:5] == ["", "Mary is in the office.", "", "", ""]
    # What is too long for the table loses its end.
    assert said[5].startswith("Ann slept") and (after.wrong[5] != 0).all()
    # Of the right answer two memories, each less than 1; of wrong ones three.
    taught = {name: getattr(after.counts, name) - getattr(before.counts, name) for name in ("right", "wrong")}
    assert 0 < taught["right"].sum() < 2 and 0 < taught["wrong"].sum() < 3
    of_right = int(feed.split.tasks[4])
    assert taught["right"][of_right].sum() == pytest.approx(taught["right"].sum())
    # Another attempt at the same example takes the place of the one before.
    seen = {name: value[:1] for name, value in seen.items()}
    recollection.learn(feed, np.array([1], np.int32), seen, [attempted(1, "So. answer: garden", True)])
    wrong = np.asarray(recollection._taught.wrong)
    assert not wrong[1].any() and wrong[5].any()


def test_what_stands_against_a_lesson_is_there_before_any_attempt(recollection, source, vocabulary):
    """The first text of an example's lessons, unless the teacher says so, too."""
    against = [[], ["Mary is in the office.", "So."], [TEXTS[2]], [""], ["No."], ["Ann slept " + "and slept " * 50]]
    recollection.study(source, learnt_of(vocabulary, against))
    wrong = np.asarray(recollection._taught.wrong)
    said = [vocabulary.decode(row[row != 0].tolist()) for row in wrong]
    assert said[:5] == ["", "Mary is in the office.", "", "", "No."]
    assert said[5].startswith("Ann slept") and (wrong[5] != 0).all()


def test_a_lesson_of_no_update_has_no_number(recollection, source, vocabulary):
    learnt = lessons.tokenise([[Lesson((Segment("answer: x"),))]] * 5 + [[Lesson((Segment("x"),), "x")]], vocabulary)
    texts = np.asarray(recollection.split(source, learnt).texts)
    assert texts[:5].tolist() == [-1] * 5 and texts[5] >= 0
    assert recollection.split(source, None).texts.shape == (0,)


def test_a_state_brings_it_back(recollection, source, learnt):
    recollection.study(source, learnt)
    seen = {"contexts": normal(1, 16), "rows": np.array([[0, 7]], np.int32)}
    tried = [attempted(1, "Mary. answer: office", False)]
    recollection.learn(feed_of(recollection, source, learnt), np.array([1], np.int32), seen, tried)
    recollection.count_use(seen)
    state, taught = recollection.state(encoded=True), jax.device_get(recollection._taught)
    assert taught.wrong.any()
    recollection.study(source, learnt)
    assert not np.asarray(recollection._taught.wrong).any()
    recollection.memory.set_used(np.zeros(9, np.int32))
    recollection.memory.write(np.ones((9, 16), np.float32))
    recollection._vectors = recollection.memory.layout.place(np.ones((9, 16), np.float32))
    # What was encoded is not encoded anew: there are no parameters.
    recollection.set_state(state, None)
    np.testing.assert_array_equal(recollection.memory.keys[np.array(HELD)], normal(9, 16)[HELD])
    np.testing.assert_array_equal(recollection._vectors[:9], normal(9, 16, seed=1))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(recollection._taught), taught)
    assert recollection.memory.used.tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0]


def test_equal_readers_for_equal_lengths(recollection, source, learnt):
    """What is compiled for one step serves all."""
    recollection.study(source, learnt)

    def reader(length, training):
        return recollection.reading(feed_of(recollection, source, learnt, length), training)[0]

    assert reader(24, True) == reader(24, True) and hash(reader(24, True)) == hash(reader(24, True))
    assert len({reader(24, True), reader(32, True), reader(24, False)}) == 3
    assert reader(24, True).queries == "random" and [term.weight for term in reader(24, True).terms] == [0.5]
    assert reader(24, False).queries == "fixed" and reader(24, False).terms == ()
    # No longer than what was asked for, and room for the prompt and the longest update with its ordinal.
    longest = int((np.asarray(recollection._tokens) != 0).sum(-1).max())
    assert 64 >= reader(24, True).length >= min(64, 24 + longest + len(recollection._ordinals[0]))
