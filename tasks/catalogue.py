"""The catalogue of tasks: ours, on the original data where it is given, and the user's own; and how SeqIO gets them."""

import functools
import os
import types
from collections.abc import Mapping, Sequence

import seqio

from cd_jax.errors import RequestError
from cd_jax.tasks import metrics, own, sample
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.babi.worlds import shifts
from cd_jax.tasks.data import SPLITS, Data, babi_tasks, com2sense_task, shifted_tasks
from cd_jax.tasks.source import ExampleDataSource, ExampleMixture, ExampleTask, Read, is_ours, keep_end
from cd_jax.types import Example

# The tasks of the demo's source: what they need is in one or two sentences, and no pronoun stands for two people.
SOURCE_WORLDS = (1, 6, 9, 11, 12)
# Section 4 of arXiv 2212.11353: 5 examples of each of the 20 bAbI tasks; 100 of Com2Sense.
LOW_DATA_BABI = 5
LOW_DATA_COM2SENSE = 100


class Catalogue:
    """Every task and mixture that there is, by name; a value: nothing changes it once it is made.

    Tasks and mixtures that others have given to SeqIO's registries by then are in it, too, under their names, read as
    texts. Examples are read when they are asked for.
    """

    def __init__(
        self,
        babi_dir: str | os.PathLike | None = None,
        com2sense_dir: str | os.PathLike | None = None,
        tfds_data_dir: str | os.PathLike | None = None,
        babi_layout: str | None = None,
        low_data_seed: int = 0,
        jsonl: Mapping[str, str] | None = None,
    ):
        """Looks for the data.

        Args:
          babi_dir: folder of the original bAbI archive.
          com2sense_dir: folder of the original Com2Sense files.
          tfds_data_dir: where `tfds build` has prepared what is not given as a folder. What is in neither place is
            embedded.
          babi_layout: of `archive.LAYOUTS`; None: the first English one that is there.
          low_data_seed: draws the examples of the low-data tasks.
          jsonl: folders of JSON lines by the name of the task, see `own.in_json_lines`.

        Raises:
          RequestError: there is no such data, or a name in `jsonl` is taken.
        """
        data = Data(_path(babi_dir), _path(com2sense_dir), _path(tfds_data_dir), babi_layout)
        data.check()
        readers, mixtures = _ours(data, low_data_seed)
        theirs, their_mixtures = own.in_seqio()
        readers |= own.in_json_lines(dict(jsonl or {}), [*readers, *mixtures, *theirs, *their_mixtures])
        # What SeqIO gets of us: the user's own are in its registries as they are.
        self._given = types.MappingProxyType(readers), types.MappingProxyType(mixtures)
        self._readers = types.MappingProxyType(readers | theirs)
        self._mixtures = types.MappingProxyType(mixtures | their_mixtures)
        self._sources = types.MappingProxyType(data.described())

    def names(self) -> dict[str, list[str]]:
        """Every task and mixture, with the tasks that it is made of."""
        return {name: [name] for name in self._readers} | {name: list(made) for name, made in self._mixtures.items()}

    def sources(self) -> dict[str, str]:
        """Where bAbI and Com2Sense are read from: a folder, or what is embedded."""
        return dict(self._sources)

    def subtasks(self, name: str) -> list[str]:
        """The tasks of a mixture, in order; of a task, itself.

        Raises:
          RequestError: there is no such task.
        """
        if name not in self._readers and name not in self._mixtures:
            raise RequestError(
                f"no task or mixture {name!r}; `cd_jax tasks` lists them, --module_import and --task_jsonl bring your "
                "own"
            )
        return list(self._mixtures.get(name, [name]))

    def splits(self, name: str) -> list[str]:
        """Those that all tasks of a mixture have, in order; of a task, its own.

        Raises:
          RequestError: there is no such task.
        """
        first, *others = [self._readers[task][1] for task in self.subtasks(name)]
        return [split for split in first if all(split in more for more in others)]

    def examples(self, name: str, split: str, per_task: int | None = None, seed: int = 0) -> list[Example]:
        """Examples of a task or mixture, in the order in which its SeqIO datasets yield them.

        Args:
          name: of the task or mixture.
          split: `train`, `validation` or `test`; of the original Com2Sense also `unlabelled`.
          per_task: at most so many of each task, see `Sample`; None takes all.
          seed: of the sample.

        Raises:
          RequestError: no such task, its files are missing or malformed, or a sample of nothing.
        """
        taken = sample.Sample(per_task, seed)
        return [row for task in self.subtasks(name) for row in taken.of(self._readers[task][0](split), split)]

    def register(self, vocabulary: str | os.PathLike = vocabularies.EMBEDDED) -> None:
        """Gives the tasks and mixtures to SeqIO's registries, in place of those of any catalogue; any number of times.

        A user's task or mixture stays what it is. A mixture of the user's keeps the tasks that it was made of: make it
        anew, too.

        Args:
          vocabulary: a SentencePiece model.

        Raises:
          RequestError: there is no such vocabulary; what was registered stays.
        """
        readers, mixtures = self._given
        loaded = vocabularies.load(vocabulary)
        _forget_ours()
        for name, (read, splits) in readers.items():
            seqio.TaskRegistry.add_provider(name, _seqio_task(name, read, splits, loaded))
        for name, members in mixtures.items():
            seqio.MixtureRegistry.add_provider(name, ExampleMixture(name, members, default_rate=1.0))


def register(
    babi_dir: str | os.PathLike | None = None,
    com2sense_dir: str | os.PathLike | None = None,
    vocabulary: str | os.PathLike = vocabularies.EMBEDDED,
    tfds_data_dir: str | os.PathLike | None = None,
    babi_layout: str | None = None,
    low_data_seed: int = 0,
    jsonl: Mapping[str, str] | None = None,
) -> None:
    """Gives SeqIO the tasks and mixtures of a catalogue; see `Catalogue` and `Catalogue.register`.

    Raises:
      RequestError: there is no such vocabulary, or no such data; what was registered stays.
    """
    Catalogue(babi_dir, com2sense_dir, tfds_data_dir, babi_layout, low_data_seed, jsonl).register(vocabulary)


def _path(directory: str | os.PathLike | None) -> str | None:
    return None if directory is None else os.fspath(directory)


def _ours(data: Data, low_data_seed: int) -> tuple[own.Readers, dict[str, list[str]]]:
    """Readers and splits of our tasks, by name; the tasks of our mixtures."""
    babi, shifted = babi_tasks(data), shifted_tasks()
    com2sense, com2sense_splits = com2sense_task(data)
    low_babi = {
        f"{name}_low_data": functools.partial(_low_data, read, LOW_DATA_BABI, low_data_seed)
        for name, read in babi.items()
    }
    low_com2sense = {"com2sense_100": functools.partial(_low_data, com2sense, LOW_DATA_COM2SENSE, low_data_seed)}
    every_babi = babi | {task: read for group in shifted.values() for task, read in group.items()} | low_babi
    every_com2sense = {"com2sense": com2sense} | low_com2sense
    readers: own.Readers = {name: (read, SPLITS) for name, read in every_babi.items()}
    readers |= {name: (read, com2sense_splits) for name, read in every_com2sense.items()}
    mixtures = {
        "babi_all": list(babi),
        **{f"babi_{shift}": list(group) for shift, group in shifted.items()},
        **{f"babi_{shift}": [f"babi_qa{n}_{shift}" for n in SOURCE_WORLDS] for shift in shifts.DEMO},
        "babi_low_data": list(low_babi),
        "com2sense_low_data": list(low_com2sense),
    }
    return readers, mixtures


def _low_data(read: Read, size: int, seed: int, split: str) -> Sequence[Example]:
    return sample.low_data(read(split), size, seed, split)


def _seqio_task(name: str, read: Read, splits: Sequence[str], vocabulary: seqio.Vocabulary) -> ExampleTask:
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


def _forget_ours() -> None:
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        for name in [name for name in registry.names() if is_ours(registry.get(name))]:
            registry.remove(name)
