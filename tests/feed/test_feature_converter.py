"""The feature converter against its own example and a plain reference."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.tasks import vocabulary as vocabularies

# What two ordinals encode to in `Ordinals`: the second takes two tokens, as it could in a small vocabulary.
ORDINALS = {"1:": [11], "2:": [12, 13], "3:": [14]}
TOKENS = st.lists(st.integers(2, 99), max_size=12)


class Ordinals:
    """A vocabulary that knows nothing but ordinals."""

    def __init__(self, ordinals):
        self.encode = ordinals.__getitem__


def converted(converter, examples, lengths):
    """The model features of a dataset of `examples`, which go through SeqIO's checks of the features."""
    signature = {
        "inputs": tf.TensorSpec([None], tf.int32),
        "targets": tf.TensorSpec([None], tf.int32),
        "update": tf.TensorSpec([None], tf.int32),
        "memory": tf.TensorSpec([None, None], tf.int32),
    }
    dataset = tf.data.Dataset.from_generator(lambda: examples, output_signature=signature)
    lengths = {**lengths, "update": lengths["targets"], "memory": lengths["inputs"]}
    return list(converter(dataset, lengths).as_numpy_iterator())


def example(inputs, targets, update=(), memory=()):
    width = max((len(row) for row in memory), default=0)
    padded = np.array([[*row, *[0] * (width - len(row))] for row in memory], np.int32).reshape(len(memory), width)
    tokens = {"inputs": inputs, "targets": targets, "update": update}
    return {name: np.array(value, np.int32) for name, value in tokens.items()} | {"memory": padded}


def fitted(tokens, length):
    assert len(tokens) <= length
    return [*tokens, *[0] * (length - len(tokens))]


def reference(inputs, targets, update, memory, ordinals, lengths, answer_weight):
    """Written after the docstring, token by token."""
    length = lengths["inputs"]
    passages = [fitted(inputs[max(0, len(inputs) - length) :], length)]
    if memory:
        passages = []
        for ordinal, said in zip(ordinals, memory, strict=True):
            head = [*ordinal, *said[: length // 2]]
            kept = max(0, len(inputs) - (length - len(head)))
            passages.append(fitted([*head, *inputs[kept:]], length))
    told, weights = [], []
    for token in update:
        if len(told) + len(targets) < lengths["targets"]:
            told.append(token)
            weights.append(1.0)
    goal = [*told, *targets]
    return {
        "encoder_input_tokens": passages,
        "decoder_target_tokens": fitted(goal, lengths["targets"]),
        "decoder_input_tokens": fitted([0, *goal], lengths["targets"] + 1)[:-1],
        "decoder_loss_weights": fitted([*weights, *[answer_weight] * len(targets)], lengths["targets"]),
    }


def test_the_example_of_the_docstring():
    converter = PassagesFeatureConverter(Ordinals({"1:": [11], "2:": [12]}), num_passages=2, answer_weight=2.0)
    given = {"inputs": [7, 8, 1], "targets": [3, 9, 1], "update": [5, 6], "memory": [[4, 0], [2, 3]]}
    [features] = converted(converter, [given], {"inputs": 5, "targets": 5})
    assert {name: value.tolist() for name, value in features.items()} == {
        "encoder_input_tokens": [[11, 4, 7, 8, 1], [12, 2, 3, 8, 1]],
        "decoder_target_tokens": [5, 6, 3, 9, 1],
        "decoder_input_tokens": [0, 5, 6, 3, 9],
        "decoder_loss_weights": [1.0, 1.0, 2.0, 2.0, 2.0],
    }


# Every try traces a graph: shrinking a failure would take minutes.
@hypothesis.settings(
    max_examples=30,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate),
)
@hypothesis.given(
    rows=st.lists(st.tuples(TOKENS, st.lists(st.integers(2, 99), max_size=6), TOKENS), min_size=1, max_size=4),
    memory=st.lists(TOKENS, max_size=3),
    # An ordinal of two tokens, half a passage of update and one token of the prompt need six.
    lengths=st.fixed_dictionaries({"inputs": st.integers(6, 16), "targets": st.integers(7, 20)}),
    answer_weight=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_equals_the_reference(rows, memory, lengths, answer_weight):
    rows = [([*inputs, 1], [*targets, 1], update) for inputs, targets, update in rows]
    converter = PassagesFeatureConverter(Ordinals(ORDINALS), len(memory), answer_weight)
    found = converted(converter, [example(*row, memory) for row in rows], lengths)
    assert len(found) == len(rows)
    for (inputs, targets, update), features in zip(rows, found, strict=True):
        expected = reference(
            inputs, targets, update, memory, list(ORDINALS.values())[: len(memory)], lengths, answer_weight
        )
        for name, value in expected.items():
            assert features[name].tolist() == value, name
            assert features[name].dtype == (np.float32 if name == "decoder_loss_weights" else np.int32)
        # Said of the outcome once more, apart from the reference.
        weights, goal = features["decoder_loss_weights"], features["decoder_target_tokens"]
        end = int((goal != 0).sum())
        assert goal[end - len(targets) : end].tolist() == targets
        assert weights[: end - len(targets)].tolist() == [1.0] * (end - len(targets))
        assert weights[end - len(targets) : end].tolist() == [answer_weight] * len(targets)
        assert weights[end:].sum() == 0
        for passage in features["encoder_input_tokens"]:
            assert passage[passage != 0][-1] == 1


def test_the_lengths_it_announces_are_those_it_gives():
    converter = PassagesFeatureConverter(Ordinals(ORDINALS), num_passages=3)
    lengths = {"inputs": 9, "targets": 6, "update": 6, "memory": 9}
    announced = converter.get_model_feature_lengths(lengths)
    [features] = converted(converter, [example([5, 1], [6, 1], [], [[7], [8], [9]])], lengths)
    assert {name: value.shape[-1] for name, value in features.items()} == announced
    assert features["encoder_input_tokens"].shape == (3, 9)


def test_shapes_are_static():
    """`batch` then makes arrays of one shape, for which one program is compiled."""
    converter = PassagesFeatureConverter(Ordinals(ORDINALS), num_passages=2)
    row = example([5, 1], [6, 1], [], [[7], [8]])
    dataset = tf.data.Dataset.from_tensors(row)
    features = converter(dataset, {"inputs": 9, "targets": 6, "update": 6, "memory": 9})
    assert features.element_spec["encoder_input_tokens"].shape == (2, 9)
    assert features.element_spec["decoder_loss_weights"].shape == (6,)


@pytest.mark.parametrize("broken", ["missing", "rank", "dtype"])
def test_seqio_checks_what_goes_in(broken):
    row = example([5, 1], [6, 1], [], [[7]])
    if broken == "missing":
        del row["memory"]
    elif broken == "rank":
        row["memory"] = row["memory"][0]
    else:
        row["targets"] = row["targets"].astype(np.float32)
    converter = PassagesFeatureConverter(Ordinals(ORDINALS), num_passages=1)
    with pytest.raises(ValueError, match="targets" if broken == "dtype" else "memory"):
        converter(tf.data.Dataset.from_tensors(row), {"inputs": 9, "targets": 6, "update": 6, "memory": 9})


def test_ordinals_are_those_of_the_vocabulary():
    vocabulary = vocabularies.load()
    converter = PassagesFeatureConverter(vocabulary, num_passages=2)
    prompt, said = vocabulary.encode("Where is Mary?"), vocabulary.encode("because Mary is here.")
    [features] = converted(converter, [example(prompt, [6, 1], [], [said, said])], {"inputs": 40, "targets": 6})
    decoded = [vocabulary.decode(row[row != 0].tolist()) for row in features["encoder_input_tokens"]]
    assert decoded == ["1: because Mary is here. Where is Mary?", "2: because Mary is here. Where is Mary?"]
