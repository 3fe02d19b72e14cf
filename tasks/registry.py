"""Registration of the SeqIO tasks and mixtures, on the original data where it is given, else on the embedded worlds."""

import dataclasses
import functools
import os
import random
from collections.abc import Mapping, Sequence

import seqio

from cd_jax.errors import RequestError
from cd_jax.tasks import metrics, own, prepared
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.babi import archive
from cd_jax.tasks.babi.worlds import WORLDS, generate, shifts
from cd_jax.tasks.com2sense import pairs as com2sense_pairs
from cd_jax.tasks.com2sense import reader as com2sense_reader
from cd_jax.tasks.sample import Sample
from cd_jax.tasks.source import ExampleDataSource, ExampleMixture, ExampleTask, Read, keep_end
from cd_jax.types import Example

SPLITS = ("train", "validation", "test")
# The tasks of the demo's source: what they need is in one or two sentences, and no pronoun stands for two people.
SOURCE_WORLDS = (1, 6, 9, 11, 12)
# Section 4 of arXiv 2212.11353: 5 examples of each of the 20 bAbI tasks; 100 of Com2Sense.
LOW_DATA_BABI = 5
LOW_DATA_COM2SENSE = 100
# The TFDS configuration of the release.
_COM2SENSE = "com2sense/original"


@dataclasses.dataclass(frozen=True)
class _Registered:
    """What there is.

    Attributes:
      tasks: all, the user's too, as SeqIO reads them with our vocabulary.
      mixtures: the tasks by mixture.
      sources: where bAbI and Com2Sense are read from.
      ours: names of those that we have given to SeqIO's registries.
    """

    tasks: dict[str, ExampleTask]
    mixtures: dict[str, list[str]]
    sources: dict[str, str]
    ours: list[str]


_registered = _Registered({}, {}, {}, [])


def _world(number: int, task: str, setting: generate.Setting, sizes: dict[str, int], split: str) -> Sequence[Example]:
    if split not in sizes:
        raise RequestError(f"{task} has no split {split!r}; choose one of {', '.join(sizes)}")
    return generate.read(number, split, task, sizes[split], setting)


def _low_data(read: Read, size: int, seed: int, split: str) -> Sequence[Example]:
    """A few examples of train and validation, drawn by the seed, of as many stories or pairs as there are; other splits
    as they are."""
    rows = read(split)
    if split not in ("train", "validation"):
        return rows
    rng = random.Random(f"{seed}/{rows[0].task}/{split}")
    order = rng.sample(range(len(rows)), len(rows))
    taken: dict[str, int] = {}
    # How many of its family come before it: of each family the first, then of each the second.
    rank = {}
    for row in order:
        rank[row] = taken[rows[row].family] = taken.get(rows[row].family, -1) + 1
    return [rows[row] for row in sorted(sorted(order, key=lambda row: rank[row])[:size])]


def _babi_tasks(data: "_Data") -> dict[str, Read]:
    """`babi_qa1` to `babi_qa20`."""
    names = {number: f"babi_qa{number}" for number in archive.TASK_NAMES}
    if data.babi_dir is not None:
        return {
            task: functools.partial(archive.read, data.babi_dir, number, task=task, layout=data.babi_layout)
            for number, task in names.items()
        }
    if config := data.prepared_babi():
        return {
            task: functools.partial(_prepared, config, data.tfds_data_dir, task[5:] + "_") for task in names.values()
        }
    return {names[n]: functools.partial(_world, n, names[n], generate.RELEASED, generate.SIZES) for n in WORLDS}


def _prepared(name: str, data_dir: str, prefix: str, split: str) -> Sequence[Example]:
    return prepared.read(name, data_dir, prefix + split)


def _shifted_tasks() -> dict[str, dict[str, Read]]:
    """Of each named shift its tasks, `babi_qaN_<shift>`; always embedded."""
    return {
        shift: {
            task: functools.partial(_world, n, task, setting, shifts.sizes_of(shift))
            for n, task in ((n, f"babi_qa{n}_{shift}") for n in shifts.worlds_of(shift))
        }
        for shift, setting in shifts.SHIFTS.items()
    }


def _com2sense_task(data: "_Data") -> tuple[Read, tuple[str, ...]]:
    """`com2sense`, and its splits."""
    if data.com2sense_dir is not None:
        return functools.partial(com2sense_reader.read, data.com2sense_dir, task="com2sense"), (*SPLITS, "unlabelled")
    if data.tfds_data_dir is not None and prepared.is_prepared(_COM2SENSE, data.tfds_data_dir):
        return functools.partial(_prepared, _COM2SENSE, data.tfds_data_dir, ""), (*SPLITS, "unlabelled")
    return functools.partial(com2sense_pairs.read, task="com2sense"), SPLITS


@dataclasses.dataclass(frozen=True)
class _Data:
    """Where the data is; see `register`."""

    babi_dir: str | None
    com2sense_dir: str | None
    tfds_data_dir: str | None
    babi_layout: str | None

    def check(self) -> None:
        """Refuses folders that are not there, a layout that is none, and what nothing would be read from.

        Raises:
          RequestError: so it is.
        """
        self._check_layout()
        if self.babi_dir is not None:
            archive.find_folder(self.babi_dir, self.babi_layout)
        if self.com2sense_dir is not None:
            com2sense_reader.find_folder(self.com2sense_dir)
        if self.tfds_data_dir is not None and self.tfds_data_dir not in "".join(self.described().values()):
            raise RequestError(
                f"{self.tfds_data_dir}: nothing is read from there; it holds no {_COM2SENSE} of `tfds build`, or "
                "--babi_dir and --com2sense_dir come before it; leave --tfds_data_dir out"
            )

    def _check_layout(self) -> None:
        if self.babi_layout is None:
            return
        if self.babi_layout not in archive.LAYOUTS:
            raise RequestError(
                f"BABI_LAYOUT={self.babi_layout!r} is none of {', '.join(archive.LAYOUTS)}; bind it to one of them"
            )
        if self.babi_dir is None and self.tfds_data_dir is None:
            raise RequestError(
                f"BABI_LAYOUT={self.babi_layout!r} is a folder of the archive; give --babi_dir or --tfds_data_dir, too"
            )

    def prepared_babi(self) -> str | None:
        """The TFDS configuration of bAbI to read; None where the embedded worlds serve.

        Raises:
          RequestError: it is not there, nor is Com2Sense.
        """
        if self.tfds_data_dir is None:
            return None
        layouts = (self.babi_layout,) if self.babi_layout else (*archive.ENGLISH, "worlds")
        found = [f"babi/{name}" for name in layouts if prepared.is_prepared(f"babi/{name}", self.tfds_data_dir)]
        if not found and (self.babi_layout or not prepared.is_prepared(_COM2SENSE, self.tfds_data_dir)):
            raise RequestError(
                f"{self.tfds_data_dir}: neither babi/{' nor babi/'.join(layouts)} is prepared there; run `tfds build` "
                "(tasks/babi/README.md), or give --babi_dir"
            )
        return found[0] if found else None

    def described(self) -> dict[str, str]:
        """Where each of the two is read from."""
        babi, com2sense = self.babi_dir, self.com2sense_dir
        if self.tfds_data_dir is not None:
            babi = babi or (f"{self.tfds_data_dir}/{config}" if (config := self.prepared_babi()) else None)
            if prepared.is_prepared(_COM2SENSE, self.tfds_data_dir):
                com2sense = com2sense or f"{self.tfds_data_dir}/{_COM2SENSE}"
        return {"bAbI": babi or "the embedded worlds", "Com2Sense": com2sense or "the embedded pairs"}


def _make_task(name: str, read: Read, splits: Sequence[str], vocabulary: seqio.Vocabulary) -> ExampleTask:
    features = {key: seqio.Feature(vocabulary, add_eos=True) for key in ("inputs", "targets")}
    com2sense = name.startswith("com2sense")
    return ExampleTask(
        name,
        ExampleDataSource(read, splits),
        features,
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
            keep_end,
        ],
        postprocess_fn=metrics.postprocess,
        metric_fns=metrics.com2sense_metrics if com2sense else metrics.babi_metrics,
        # The source orders the examples.
        shuffle_buffer_size=None,
    )


def register(
    babi_dir: str | os.PathLike | None = None,
    com2sense_dir: str | os.PathLike | None = None,
    vocabulary: str | os.PathLike = vocabularies.EMBEDDED,
    tfds_data_dir: str | os.PathLike | None = None,
    babi_layout: str | None = None,
    low_data_seed: int = 0,
    jsonl: Mapping[str, str] | None = None,
) -> None:
    """Registers all tasks and mixtures anew; any number of times.

    Tasks and mixtures that others have given to SeqIO's registries are there, too, under their names, read as texts. A
    mixture of your own keeps the tasks that it was made of: make it anew, too.

    Args:
      babi_dir: folder of the original bAbI archive.
      com2sense_dir: folder of the original Com2Sense files.
      vocabulary: a SentencePiece model.
      tfds_data_dir: where `tfds build` has prepared what is not given as a folder. What is in neither place is
        embedded.
      babi_layout: of `archive.LAYOUTS`; None: the first English one that is there.
      low_data_seed: draws the examples of the low-data tasks.
      jsonl: folders of JSON lines by the name of the task, see `own.in_json_lines`.

    Raises:
      RequestError: there is no such vocabulary, or no such data; what was registered stays.
    """
    global _registered
    loaded = vocabularies.load(vocabulary)
    data = _Data(_path(babi_dir), _path(com2sense_dir), _path(tfds_data_dir), babi_layout)
    data.check()
    babi, shifted = _babi_tasks(data), _shifted_tasks()
    com2sense, com2sense_splits = _com2sense_task(data)
    low_babi = {
        f"{name}_low_data": functools.partial(_low_data, read, LOW_DATA_BABI, low_data_seed)
        for name, read in babi.items()
    }
    low_com2sense = {"com2sense_100": functools.partial(_low_data, com2sense, LOW_DATA_COM2SENSE, low_data_seed)}
    every_babi = babi | {k: v for group in shifted.values() for k, v in group.items()} | low_babi
    mixtures = {
        "babi_all": list(babi),
        **{f"babi_{shift}": list(group) for shift, group in shifted.items()},
        **{f"babi_{shift}": [f"babi_qa{n}_{shift}" for n in SOURCE_WORLDS] for shift in shifts.DEMO},
        "babi_low_data": list(low_babi),
        "com2sense_low_data": list(low_com2sense),
    }
    readers = {name: (read, SPLITS) for name, read in every_babi.items()}
    readers |= {name: (read, com2sense_splits) for name, read in ({"com2sense": com2sense} | low_com2sense).items()}
    theirs, their_mixtures = own.in_seqio(_registered.ours)
    readers |= own.in_json_lines(dict(jsonl or {}), [*readers, *mixtures, *theirs, *their_mixtures])
    _forget()
    made = {name: _make_task(name, *reader, loaded) for name, reader in readers.items()}
    for name, task in made.items():
        seqio.TaskRegistry.add_provider(name, task)
    for name, members in mixtures.items():
        seqio.MixtureRegistry.add_provider(name, ExampleMixture(name, members, default_rate=1.0))
    made |= {name: _make_task(name, *reader, loaded) for name, reader in theirs.items()}
    _registered = _Registered(made, mixtures | their_mixtures, data.described(), [*readers, *mixtures])


def _forget() -> None:
    for name in _registered.ours:
        for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
            if name in registry.names():
                registry.remove(name)


def _path(directory: str | os.PathLike | None) -> str | None:
    return None if directory is None else os.fspath(directory)


def names() -> dict[str, list[str]]:
    """Every task and mixture, with the tasks that it is made of."""
    return {name: [name] for name in _registered.tasks} | _registered.mixtures


def sources() -> dict[str, str]:
    """Where bAbI and Com2Sense are read from: a folder, or what is embedded."""
    return _registered.sources


def subtasks(name: str) -> list[str]:
    """The tasks of a mixture, in order; of a task, itself.

    Raises:
      RequestError: there is no such task.
    """
    if name not in names():
        raise RequestError(
            f"no task or mixture {name!r}; `cd_jax tasks` lists them, --module_import and --task_jsonl bring your own"
        )
    return names()[name]


def splits(name: str) -> list[str]:
    """Those that all tasks of a mixture have, in order; of a task, its own.

    Raises:
      RequestError: there is no such task.
    """
    first, *others = [list(_registered.tasks[task].splits) for task in subtasks(name)]
    return [split for split in first if all(split in more for more in others)]


def seqio_task(name: str) -> seqio.Task:
    """A task, which SeqIO's registry need not know so: the user's own are read as texts, with our vocabulary."""
    return _registered.tasks[name]


def examples(name: str, split: str, per_task: int | None = None, seed: int = 0) -> list[Example]:
    """Examples of a task or mixture, in the order in which its SeqIO datasets yield them.

    Args:
      name: of the task or mixture.
      split: `train`, `validation` or `test`; of the original Com2Sense also `unlabelled`.
      per_task: at most so many of each task, see `Sample`; None takes all.
      seed: of the sample.

    Raises:
      RequestError: no such task, its files are missing or malformed, or a sample of nothing.
    """
    sample = Sample(per_task, seed)
    return [row for task in subtasks(name) for row in sample.of(_registered.tasks[task].source.read(split), split)]
