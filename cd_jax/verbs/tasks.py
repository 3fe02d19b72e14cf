"""`cd_jax tasks`: lists tasks and mixtures, shows examples as the model sees them, or writes stories as bAbI files."""

import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator

import gin
import numpy as np
import tensorflow as tf

from cd_jax.config.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.feed.tokens import tokenised
from cd_jax.learning.compose import catalogue
from cd_jax.rundir import files
from cd_jax.rundir import updates as store
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.babi import archive, format
from cd_jax.tasks.babi.story import Story
from cd_jax.tasks.babi.worlds import generate, shifts
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
    there = pathlib.Path(model_dir) / "vocabulary.model" if model_dir else vocabularies.EMBEDDED
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


def write_stories(name: str | None, directory: str, num_questions: int, seed: int) -> None:
    """Writes stories made for a bAbI task in the format of the original files, one file for each split.

    Args:
      name: `babi_qa3`, `babi_qa3_names` (a named shift), or a mixture of such tasks.
      directory: gets `qa3_three-supporting-facts_train.txt` and so on.
      num_questions: of train; validation and test have a tenth as many, at least one.
      seed: of the stories.

    Raises:
      RequestError: no such task, or it is not one of bAbI's.
      RunError: a file cannot be written; what stood there is kept.
    """
    if num_questions < 1:
        raise RequestError(f"--num_questions={num_questions}: give 1 or more")
    if name is None:
        raise RequestError("--write wants a task: cd_jax tasks babi_qa3 --write=DIR")
    # The stories are made: whatever data there is, it is not read.
    for task in Catalogue().subtasks(name):
        match = re.fullmatch(r"babi_qa(\d+)(?:_(\w+))?", task)
        if match is None or (match[2] and match[2] not in shifts.SHIFTS):
            raise RequestError(
                f"{task}: only stories of bAbI can be made; choose babi_qa1 … babi_qa20 or a shift of one"
            )
        number, setting = int(match[1]), shifts.SHIFTS.get(match[2], generate.RELEASED)
        for split, suffix in (("train", "train"), ("validation", "valid"), ("test", "test")):
            size = num_questions if split == "train" else max(1, num_questions // 10)
            stories = list(_until(size, generate.split_stories(number, split, seed, setting)))
            path = pathlib.Path(directory) / f"qa{number}_{archive.TASK_NAMES[number]}_{suffix}.txt"
            files.write_text(path, "".join(format.write(stories)))
            print(f"{path}: {size} questions in {len(stories)} stories", flush=True)


def _until(size: int, stories: Iterable[Story]) -> Iterator[Story]:
    """Stories with so many questions in all; the last one may lose some of its own."""
    for story in stories:
        allowed = itertools.count(1)
        # The bound is of this story: the filter is used up before the next one is asked for.
        yield story.asking(lambda _, allowed=allowed, left=size: next(allowed) <= left)
        size -= len(story.questions())
        if size <= 0:
            return


def _updates(examples: list[Example], model_dir: str | None) -> list[list[str]]:
    path = pathlib.Path(model_dir or "") / store.NAME
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
