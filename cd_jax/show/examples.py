"""Tasks and mixtures in a list, and examples as the model sees them."""

import itertools
import re

import gin
import numpy as np
import tensorflow as tf
from etils import epath

from cd_jax.config.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.feed.tokens import tokenised
from cd_jax.learning.compose import catalogue
from cd_jax.rundir import updates as store
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.catalogue import Catalogue
from cd_jax.types import Example
from cd_jax.update.teachers.oracle import OracleTeacher


@gin.configurable
def show_tasks(
    name: str | None = None,
    model_dir: str | None = None,
    split: str = "train",
    num_examples: NonNegativeInt = 3,
    inputs: PositiveInt = 64,
    targets: PositiveInt = 32,
    num_passages: NonNegativeInt = 0,
    answer_weight: PositiveFloat = 1.0,
) -> None:
    """Prints to standard output.

    Args:
      name: task or mixture; None lists all.
      model_dir: where `updates.jsonl` and `vocabulary.model` are; without them the oracle explains, and the vocabulary
        of the embedded worlds spells.
      split: `train`, `validation` or `test`; of the original Com2Sense also `unlabelled`.
      num_examples: shown.
      inputs: tokens of a passage, as in training.
      targets: tokens of a target, as in training.
      num_passages: memory entries of an example; here, updates of the examples after it.
      answer_weight: as in training.

    Raises:
      RequestError: no such task, or its files are missing or malformed.
    """
    there = epath.Path(model_dir) / "vocabulary.model" if model_dir else vocabularies.EMBEDDED
    vocabulary = vocabularies.load(there if there.is_file() else vocabularies.EMBEDDED)
    tasks = catalogue()
    if name is None:
        _list(tasks)
        return
    asked = tokenised(tasks, vocabulary, name, split)
    updates = _updates(asked.examples[: num_examples + num_passages + 1], model_dir)
    converter = PassagesFeatureConverter(vocabulary, num_passages, answer_weight)
    lengths = {"inputs": inputs, "targets": targets, "update": targets, "memory": inputs}
    for i in range(min(num_examples, len(asked.examples))):
        example = asked.examples[i]
        others = [vocabulary.encode(updates[(i + 1 + p) % len(updates)][0]) for p in range(num_passages)]
        memory = tf.ragged.constant(others or [[0]], tf.int32).to_tensor()[:num_passages]
        row = {
            "inputs": asked.inputs[i],
            "targets": asked.targets[i],
            "update": tf.constant(vocabulary.encode(updates[i][0]), tf.int32),
            "memory": memory,
        }
        features = next(converter(tf.data.Dataset.from_tensors(row), lengths).as_numpy_iterator())
        _print_example(example, updates[i], features, vocabulary)


def _list(tasks: Catalogue) -> None:
    """One line for the tasks of a kind: the twenty of bAbI differ in a number."""
    mixtures = {name: made_of for name, made_of in tasks.names().items() if made_of != [name]}
    print("; ".join(f"{data} from {place}" for data, place in tasks.sources().items()))
    print("tasks:")
    names = (name for name in tasks.names() if name not in mixtures)
    for _, kind in itertools.groupby(names, lambda name: re.sub(r"qa\d+", "qaN", name)):
        print(f"  {_brief(list(kind))}")
    print("mixtures:")
    for name, made_of in mixtures.items():
        print(f"  {name} = {_brief(made_of)}")


def _brief(names: list[str]) -> str:
    return " + ".join(names) if len(names) < 6 else f"{names[0]} … {names[-1]} ({len(names)})"


def _updates(examples: list[Example], model_dir: str | None) -> list[list[str]]:
    path = epath.Path(model_dir or "") / store.NAME
    said = store.read_grouped(path) if model_dir and path.is_file() else {}
    teacher = OracleTeacher()
    return [
        [update.update for update in said.get(example.example_id, ())]
        or [explanation.text for explanation in teacher.explain(example, None, 3, seed=0)]
        for example in examples
    ]


def _print_example(example: Example, updates: list[str], features: dict[str, np.ndarray], vocabulary) -> None:
    print(f"\n{example.example_id}")
    for passage in features["encoder_input_tokens"]:
        kept = passage[passage != 0].tolist()
        print(f"  input    {vocabulary.decode(kept)}\n           {kept}")
    weights, target = features["decoder_loss_weights"], features["decoder_target_tokens"]
    used = int((target != 0).sum())
    print(f"  target   {vocabulary.decode(target[:used].tolist())}\n           {target[:used].tolist()}")
    print(f"  weights  {' '.join(f'{weight:g}' for weight in weights[:used])}")
    for number, update in enumerate(updates):
        print(f"  update {number} {update}")
