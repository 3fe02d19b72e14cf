"""Students with a solver so small that it runs in the tests, and what several tests ask of them."""

import contextlib
import functools

import jax
import memories
import numpy as np
import optax
import pytest
import tensorflow as tf

from cd_jax.feed import lessons
from cd_jax.feed.tokens import TokenisedExamples, tokenised
from cd_jax.learning.agent import Agent
from cd_jax.learning.student import Settings, Student
from cd_jax.memory import values
from cd_jax.nets.config import T5Config
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.solver.decoding import Decoding
from cd_jax.solver.solver import Solver
from cd_jax.step.terms.contrastive import Contrast
from cd_jax.tasks import Catalogue
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Update
from cd_jax.update.policies.explanations import Explanations
from cd_jax.update.teachers.oracle import OracleTeacher

BATCH = 8
ANSWER_WEIGHT = 2.0


@functools.cache
def source():
    """35 examples of seven tasks whose stories are short."""
    catalogue = Catalogue()
    parts = [tokenised(catalogue, vocabulary(), f"babi_qa{n}_low_data", "train") for n in (1, 4, 6, 9, 10, 11, 12)]
    return TokenisedExamples(
        sum((part.examples for part in parts), []),
        tf.concat([part.inputs for part in parts], 0),
        tf.concat([part.targets for part in parts], 0),
    )


@functools.cache
def updates():
    """1, 2 or 3 updates of an example of the source."""
    told = {}
    for i, example in enumerate(source().examples):
        said = OracleTeacher().explain(example, None, 1 + i % 3, 0)
        told[example.example_id] = [
            Update(example.example_id, example.task, text, "oracle", prompt, sample, 0)
            for sample, (text, prompt, *_) in enumerate(said)
        ]
    return told


@functools.cache
def vocabulary():
    return vocabularies.load()


@functools.cache
def solver():
    config = T5Config(
        emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.0
    )
    return Solver(config, vocabularies.padded_size(vocabulary()), learning_rate=optax.constant_schedule(0.01))


@functools.cache
def params():
    """The parameters of a run that begins."""
    return solver().init(0).params


def agent_of(name, contrast=Contrast):
    """The agent of `gin/agents/NAME.gin`."""
    if name == "baseline":
        return Agent(name, lessons.answer_alone)
    if name == "cd_finetune":
        return Agent(name, lessons.explained, update=Explanations)
    assert name == "cd_memory"
    return Agent(name, lessons.explained, values.update_value, Explanations, terms=[contrast()])


def make(
    name,
    inputs=256,
    targets=64,
    eval_batch_size=16,
    entries=None,
    contrast=Contrast,
    cache_passages=False,
    decoding=Decoding,
    **options,
):
    """A student; `options` are of its memory, which holds 60 updates of the source where no entries are given."""
    agent, memory = agent_of(name, contrast), None
    if agent.value:
        entries = entries or values.choose_entries(source().examples, updates(), 60, 0, agent.value)
        memory = memories.filled(entries, mesh=solver().mesh, **options)
    lengths = {"inputs": inputs, "targets": targets}
    settings = Settings(lengths, ANSWER_WEIGHT, eval_batch_size, decoding, cache_passages)
    return Student(agent, vocabulary(), solver(), memory, settings)


@functools.cache
def remembering():
    """An agent with memory, whose keys are of `params`."""
    made = make("cd_memory")
    made.refresh(params())
    return made


def taught(student, told=None):
    """Its lessons of each example of the source; `told`: the updates."""
    if told is None:
        told = updates() if student.agent.update else {}
    return lessons.of_examples(student.agent.lesson, source().examples, told, {}, ANSWER_WEIGHT)


def tokenised_lessons(student):
    """The same, as tokens."""
    return lessons.tokenise(taught(student), vocabulary())


def study(student):
    """The student's input pipeline of the source."""
    return student.study(source(), BATCH, taught(student))


def memory_of(student):
    return student.memory


def decode(row):
    return vocabulary().decode(row[row != 0].tolist())


def drawn(student, one, seed=0, epoch=0):
    """The batches of an epoch of a feed, and their rows one after the other."""
    proposal = DeterministicIterator(len(one.asked.examples), BATCH, seed)
    choices = one.lessons.choices if one.lessons else [np.array([-1])] * len(one.asked.examples)
    batches = list(one.batches(student.draw(proposal, choices, epoch)))
    return batches, {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def read(student, params, one, batches, training):
    """What the network reads of the batches, and what the reader saw: arrays of all rows."""
    reading = student._recollection.reading(one, training=training)
    parts = [jax.tree.map(np.asarray, student.solver.read(params, batch, *reading)) for batch in batches]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def train_step(student, state, batch, one, seed):
    """A step, as the trainer takes it; what was seen is no metric."""
    state, metrics = student.solver.train_step(state, batch, seed, *student.reading(one))
    student.count_use(metrics.pop("seen", {}))
    return state, metrics


def learn(student, state, one, steps, seed=0):
    """So many steps on the first batches of an epoch."""
    for batch in drawn(student, one)[0][:steps]:
        state, metrics = train_step(student, state, batch, one, seed)
        assert np.isfinite(metrics["loss"])
    return state


@contextlib.contextmanager
def seen_in_training():
    """What the reader saw of the rows in each step, a list that grows."""
    seen, train_step = [], solver().train_step

    def spied(*args):
        state, metrics = train_step(*args)
        seen.append(jax.tree.map(np.asarray, metrics["seen"]))
        return state, metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver(), "train_step", spied)
        yield seen


def say(monkeypatch, text):
    """Has the solver say the same of everything; the examples that memory is read for, batch after batch."""
    tokens = [*vocabulary().encode(text), 1]
    asked, reading = [], solver().read

    def read(params, batch, *args):
        asked.append(batch["example"].tolist())
        return reading(params, batch, *args)

    def generate_all(params, passages, max_length, method, *_):
        row = np.array(tokens + [0] * (max_length - len(tokens)), np.int32)
        rows = (len(passages), method.rows)
        return np.broadcast_to(row, (*rows, max_length)), np.zeros(rows, np.float32)

    monkeypatch.setattr(solver(), "read", read)
    monkeypatch.setattr(solver(), "generate_all", generate_all)
    return asked


def assert_same(found, expected):
    """All arrays of both, bit for bit."""
    leaves, wanted = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (found, expected))
    assert leaves.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(leaves[name], value, err_msg=jax.tree_util.keystr(name))
