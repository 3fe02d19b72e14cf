"""Registration of the SeqIO tasks and mixtures, on the original files where they are given, else on embedded worlds."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping

import seqio
import tensorflow as tf

from cd_jax.errors import RequestError
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.babi import reader as babi_reader
from cd_jax.tasks.babi import worlds
from cd_jax.tasks.com2sense import pairs as com2sense_pairs
from cd_jax.tasks.com2sense import reader as com2sense_reader
from cd_jax.types import Example

SPLITS = ("train", "validation", "test")
# The tasks of the demo's source: what they need is in one or two sentences, and no pronoun stands for two people.
SOURCE_WORLDS = (1, 6, 9, 11, 12)
# Section 4 of arXiv 2212.11353: 5 examples of each of the 20 bAbI tasks; 100 of Com2Sense.
LOW_DATA_BABI = 5
LOW_DATA_COM2SENSE = 100

Read = Callable[[str], list[Example]]


@dataclasses.dataclass(frozen=True)
class _Registered:
    tasks: dict[str, Read]
    mixtures: dict[str, list[str]]


_registered = _Registered({}, {})


def _world(number: int, task: str, sizes: Mapping[str, int], sentences: range, split: str) -> list[Example]:
    return worlds.read(number, split, task, sizes[split], sentences)


def _low_data(read: Read, size: int, split: str) -> list[Example]:
    """A few examples of train and validation, each of another story; all of test."""
    if split == "test":
        return read(split)
    stories: dict[str, list[Example]] = {}
    for row in read(split):
        stories.setdefault(row.story_id or row.example_id, []).append(row)
    # The first question of every story would be an easy one: little has happened yet.
    return [story[i % len(story)] for i, story in enumerate(stories.values())][:size]


def _babi_tasks(babi_dir: str | None) -> dict[str, Read]:
    if babi_dir is not None:
        return {
            f"babi_qa{n}": functools.partial(babi_reader.read, babi_dir, n, task=f"babi_qa{n}")
            for n in babi_reader.TASK_NAMES
        }
    sizes = {"train": 900, "validation": 100, "test": 1000}
    return {f"babi_qa{n}": functools.partial(_world, n, f"babi_qa{n}", sizes, range(2, 11)) for n in worlds.WORLDS}


def _demo_tasks() -> dict[str, Read]:
    """Always embedded: short stories to learn from, longer ones and an unseen pronoun to carry it to."""
    tasks = {}
    for n in worlds.WORLDS:
        sizes = {"train": 4000, "validation": 100, "test": 500 if n not in SOURCE_WORLDS else 100}
        tasks[f"babi_qa{n}_short"] = functools.partial(_world, n, f"babi_qa{n}_short", sizes, range(2, 5))
        tasks[f"babi_qa{n}_longer"] = functools.partial(_world, n, f"babi_qa{n}_longer", sizes, range(5, 9))
    return tasks


def _com2sense_tasks(com2sense_dir: str | None) -> dict[str, Read]:
    if com2sense_dir is not None:
        return {"com2sense": functools.partial(com2sense_reader.read, com2sense_dir, task="com2sense")}
    return {"com2sense": functools.partial(com2sense_pairs.read, task="com2sense")}


def _dataset(read: Read, split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
    del shuffle_files, seed  # The proposal policy orders examples; a task yields them as they stand.
    rows = read(split)
    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": [row.prompt for row in rows],
            "targets": [f"answer: {row.answer}" for row in rows],
            "example_id": [row.example_id for row in rows],
        }
    )


def _add_task(name: str, read: Read, vocabulary: seqio.Vocabulary) -> None:
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(functools.partial(_dataset, read), splits=SPLITS),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={k: seqio.Feature(vocabulary, add_eos=True) for k in ("inputs", "targets")},
    )


def register(
    babi_dir: str | os.PathLike | None = None,
    com2sense_dir: str | os.PathLike | None = None,
    vocabulary: str | os.PathLike = vocabularies.EMBEDDED,
) -> None:
    """Registers all tasks and mixtures anew.

    Args:
      babi_dir: folder of the original bAbI archive; without it the embedded worlds serve for the tasks they cover.
      com2sense_dir: folder of the original Com2Sense files; without it the embedded pairs serve.
      vocabulary: a SentencePiece model.

    Raises:
      RequestError: there is no such vocabulary; what was registered stays.
    """
    loaded = vocabularies.load(vocabulary)
    for name in _registered.tasks:
        seqio.TaskRegistry.remove(name)
    for name in _registered.mixtures:
        seqio.MixtureRegistry.remove(name)
    babi, com2sense = _babi_tasks(_path(babi_dir)), _com2sense_tasks(_path(com2sense_dir))
    low_babi = {f"{name}_low_data": functools.partial(_low_data, read, LOW_DATA_BABI) for name, read in babi.items()}
    low_com2sense = {"com2sense_100": functools.partial(_low_data, com2sense["com2sense"], LOW_DATA_COM2SENSE)}
    tasks = babi | _demo_tasks() | low_babi | com2sense | low_com2sense
    mixtures = {
        "babi_all": list(babi),
        "babi_short": [f"babi_qa{n}_short" for n in SOURCE_WORLDS],
        "babi_longer": [f"babi_qa{n}_longer" for n in SOURCE_WORLDS],
        "babi_low_data": list(low_babi),
        "com2sense_low_data": list(low_com2sense),
    }
    for name, read in tasks.items():
        _add_task(name, read, loaded)
    for name, members in mixtures.items():
        seqio.MixtureRegistry.add(name, members, default_rate=1.0)
    _registered.__init__(tasks, mixtures)


def _path(directory: str | os.PathLike | None) -> str | None:
    return None if directory is None else os.fspath(directory)


def names() -> dict[str, list[str]]:
    """Every task and mixture, with the tasks that it is made of."""
    return {name: [name] for name in _registered.tasks} | _registered.mixtures


def subtasks(name: str) -> list[str]:
    """The tasks of a mixture, in order; of a task, itself.

    Raises:
      RequestError: there is no such task.
    """
    if name not in names():
        raise RequestError(
            f"no task or mixture {name!r}; `cd_jax tasks` lists them "
            "(bAbI tasks outside the embedded worlds need --babi_dir)"
        )
    return names()[name]


def examples(name: str, split: str, per_task: int | None = None) -> list[Example]:
    """Examples of a task or mixture, in the order in which its SeqIO datasets yield them.

    Args:
      name: of the task or mixture.
      split: `train`, `validation` or `test`.
      per_task: at most so many of each task, spread evenly over it (pairs stay together); None takes all.

    Raises:
      RequestError: no such task, or its files are missing or malformed.
    """
    chosen = []
    for task in subtasks(name):
        rows = _registered.tasks[task](split)
        chosen += rows if per_task is None else _spread(rows, per_task)
    return chosen


def _spread(rows: list[Example], size: int) -> list[Example]:
    """At most `size` of the rows, or one pair where that is more."""
    if size >= len(rows):
        return rows
    units: dict[str, list[Example]] = {}
    for row in rows:
        units.setdefault(row.pair_id or row.example_id, []).append(row)
    groups = list(units.values())
    for wanted in range(round(size * len(groups) / len(rows)), 0, -1):
        chosen = [row for i in range(wanted) for row in groups[i * len(groups) // wanted]]
        # Where some have lost their partner, the chosen groups can be larger than most.
        if len(chosen) <= size:
            return chosen
    return groups[0]
