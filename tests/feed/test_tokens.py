"""Tokens of a split: those of its SeqIO task, bit for bit, without reading it twice."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from cd_jax import tasks
from cd_jax.errors import RequestError
from cd_jax.feed.tokens import tokenised
from cd_jax.tasks import Catalogue
from cd_jax.tasks import vocabulary as vocabularies

SPLITS = ("train", "validation", "test")
# Words that the embedded vocabulary has and has not, an answer of nothing, and what SentencePiece takes for a blank.
ROWS = [
    ("Where is Mary?", "kitchen"),
    ("Ærøskøbing  naïve 东京 🦜", "because\tso"),
    ("two\nlines answer: no", ""),
    ("", "▁"),
]


@pytest.fixture
def mine():
    """A task of the user's own, with our vocabulary and our marker of the answer."""
    features = {name: seqio.Feature(vocabularies.load()) for name in ("inputs", "targets")}
    rows = {"inputs": [prompt for prompt, _ in ROWS], "targets": [f"answer: {answer}" for _, answer in ROWS]}
    seqio.TaskRegistry.add(
        "mine",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensor_slices(rows), splits=SPLITS
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=features,
        metric_fns=[],
    )
    yield "mine"
    seqio.TaskRegistry.remove("mine")


@pytest.fixture
def figs(tmp_path):
    """A folder of JSON lines, which have no empty texts."""
    for split in SPLITS:
        lines = [json.dumps({"prompt": prompt or "?", "answer": answer or "!"}) for prompt, answer in ROWS]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def assert_those_of_seqio(catalogue, name, split, vocabulary):
    """The examples of a mixture come task by task; SeqIO mixes them."""
    read = tokenised(catalogue, vocabulary, name, split)
    assert read.examples == catalogue.examples(name, split)
    rows = [
        row
        for task in catalogue.subtasks(name)
        for row in seqio.TaskRegistry.get(task).get_dataset(None, split, shuffle=False).as_numpy_iterator()
    ]
    for feature, found in (("inputs", read.inputs), ("targets", read.targets)):
        expected = tf.RaggedTensor.from_row_lengths(
            np.concatenate([row[feature] for row in rows]), [len(row[feature]) for row in rows]
        )
        assert found.dtype == expected.dtype and found.row_splits.dtype == expected.row_splits.dtype
        np.testing.assert_array_equal(found.row_splits, expected.row_splits)
        np.testing.assert_array_equal(found.flat_values, expected.flat_values)


@pytest.mark.parametrize(
    ("name", "split"), [("babi_qa1", "test"), ("com2sense", "validation"), ("babi_low_data", "train")]
)
def test_tokens_of_our_tasks(name, split):
    tasks.register()
    assert_those_of_seqio(Catalogue(), name, split, vocabularies.load())


def test_tokens_of_a_task_of_the_users_own_and_of_json_lines(mine, figs):
    catalogue, vocabulary = Catalogue(jsonl={"figs": str(figs)}), vocabularies.load()
    catalogue.register()
    for name in (mine, "figs"):
        assert_those_of_seqio(catalogue, name, "train", vocabulary)
    tasks.register()


def test_tokens_of_another_vocabulary(tmp_path):
    path = tmp_path / "small.model"
    path.write_bytes(vocabularies.train(vocabularies.embedded_texts()[:200], 350))
    catalogue = Catalogue()
    catalogue.register(path)
    assert_those_of_seqio(catalogue, "babi_qa6_low_data", "train", vocabularies.load(path))
    tasks.register()


def test_a_sample_of_a_mixture():
    catalogue, vocabulary = Catalogue(), vocabularies.load()
    split = tokenised(catalogue, vocabulary, "babi_short", "test", per_task=7)
    assert split.examples == catalogue.examples("babi_short", "test", 7)
    assert len(split.examples) == 35
    for example, inputs, targets in zip(split.examples, split.inputs, split.targets, strict=True):
        assert inputs.numpy().tolist() == [*vocabulary.encode(example.prompt), 1]
        assert targets.numpy().tolist() == [*vocabulary.encode(f"answer: {example.answer}"), 1]


def test_a_split_is_read_once(monkeypatch):
    reads, examples = [], Catalogue.examples

    def counted(self, *asked):
        reads.append(asked)
        return examples(self, *asked)

    monkeypatch.setattr(Catalogue, "examples", counted)
    monkeypatch.setattr(seqio.Task, "get_dataset", None)
    tokenised(Catalogue(), vocabularies.load(), "babi_qa1_low_data", "train")
    assert len(reads) == 1


def test_an_empty_split():
    class Empty:
        def examples(self, *_):
            return []

    with pytest.raises(RequestError, match="split 'test' of 'babi_short' has no examples"):
        tokenised(Empty(), vocabularies.load(), "babi_short", "test")
