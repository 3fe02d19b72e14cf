"""Examples as a SeqIO data source, and the task that reads from it."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import seqio
import tensorflow as tf
from seqio.dataset_providers import SHUFFLE_BUFFER_SIZE

from cd_jax.errors import RequestError
from cd_jax.feed import formats
from cd_jax.types import Example

Read = Callable[[str], Sequence[Example]]

# What is known of an example beside its texts: metrics group by it.
LABELS = ("example_id", "task", "pair_id", "domain", "scenario")


class ExampleDataSource(seqio.DataSource):
    """A source of examples in memory, whose order depends on the seed alone.

    Every epoch has an order of its own. With a seed, shuffling comes before sharding; without one, each host shuffles
    what is its own.
    """

    def __init__(self, read: Read, splits: Iterable[str]):
        """Reads nothing yet.

        Args:
          read: gives the examples of a split, the same at every call.
          splits: those that there are.
        """
        super().__init__(splits=splits, performs_internal_shuffling=True)
        self.read = read

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Every row can go to any host."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """One: `get_dataset` cuts it as finely as it is asked to."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Examples of the split."""
        return len(self.read(split))

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused,
    ) -> tf.data.Dataset:
        """Texts: `inputs`, `targets`, `example_id`, and what metrics want to know of an example.

        Raises:
          RequestError: the data is missing or malformed.
        """
        columns = _columns(self.read(split))
        rows = tf.data.Dataset.range(len(columns["inputs"]))
        if shuffle and seed is not None:
            rows = rows.shuffle(len(columns["inputs"]), seed=seed)
        if shard_info is not None:
            rows = rows.shard(shard_info.num_shards, shard_info.index)
        if shuffle and seed is None:
            rows = rows.shuffle(len(columns["inputs"]))
        return rows.map(lambda row: {name: column[row] for name, column in columns.items()})


def _columns(examples: Sequence[Example]) -> dict[str, tf.Tensor]:
    texts = {
        "inputs": [example.prompt for example in examples],
        "targets": [formats.answer(example.answer) for example in examples],
        **{name: [getattr(example, name) for example in examples] for name in LABELS},
    }
    return {name: tf.constant(column, tf.string) for name, column in texts.items()}


def keep_end(dataset: tf.data.Dataset, sequence_length: Mapping[str, int] | None = None) -> tf.data.Dataset:
    """A preprocessor: a prompt that does not fit loses its start. SeqIO would cut the end, where the question is."""
    length = (sequence_length or {}).get("inputs")
    return dataset.map(lambda features: features | {"inputs": features["inputs"][-length:]}) if length else dataset


def _in_step(shuffle: bool, seed: int | None) -> bool:
    """Whether every host draws the same stream, of which it can then take its share."""
    return seed is not None or not shuffle


class ExampleTask(seqio.Task):
    """A task on an `ExampleDataSource`."""

    def get_dataset(
        self,
        sequence_length=None,
        split="train",
        use_cached=False,
        shuffle=True,
        shuffle_buffer_size=None,
        seed=None,
        shard_info=None,
        **settings,
    ) -> tf.data.Dataset:
        """SeqIO's, except for what would undo the order of the source.

        Hosts share the finished stream, over all epochs, so that each has rows however few there are. A cache in memory
        would keep the first epoch's order for all others. An offline cache has no order of the source's: it is shuffled
        and shared as SeqIO does it with any other.

        Raises:
          RequestError: an offline cache is of other data, or another vocabulary, than the task.
        """
        settings |= {"try_in_mem_cache": False, "seed": seed}
        if use_cached and self.supports_caching:
            self._check_cache(split)
            plain = self.replace(shuffle_buffer_size=shuffle_buffer_size or SHUFFLE_BUFFER_SIZE)
            return plain.get_dataset(sequence_length, split, True, shuffle, shard_info=shard_info, **settings)
        if shard_info is None or not _in_step(shuffle, seed):
            return super().get_dataset(sequence_length, split, False, shuffle, shard_info=shard_info, **settings)
        whole = super().get_dataset(sequence_length, split, False, shuffle, **settings)
        return whole.shard(shard_info.num_shards, shard_info.index)

    def _check_cache(self, split: str) -> None:
        """SeqIO knows a cache by its task's name alone, whatever data and vocabulary were there when it was made."""
        cached = self._get_cached_source(split).get_dataset(split=split, shuffle=False)
        [row] = cached.take(1).as_numpy_iterator()
        prompts = {example.example_id: example.prompt for example in self.source.read(split)}
        prompt = prompts.get(row["example_id"].decode(), "")
        if self.output_features["inputs"].vocabulary.encode(prompt) != row["inputs"].tolist():
            raise RequestError(
                f"{self.cache_dir}: was made of other data, or with another vocabulary, than {self.name} has now; "
                "cache it again, or do without"
            )


class ExampleMixture(seqio.Mixture):
    """A mixture of `ExampleTask`s, whose finished stream hosts share."""

    def get_dataset(
        self,
        sequence_length=None,
        split="train",
        use_cached=False,
        shuffle=True,
        seed=None,
        shard_info=None,
        num_epochs=None,
        **settings,
    ) -> tf.data.Dataset:
        """SeqIO's, but for `shard_info`; see `ExampleTask.get_dataset`."""
        late = shard_info is not None and not use_cached and _in_step(shuffle, seed)
        early = None if late else shard_info
        mixed = super().get_dataset(sequence_length, split, use_cached, shuffle, seed, early, num_epochs, **settings)
        return mixed.shard(shard_info.num_shards, shard_info.index) if late else mixed


def is_ours(provider: seqio.Task | seqio.Mixture) -> bool:
    """Whether a catalogue has given it to SeqIO's registries; else it is the user's."""
    return isinstance(provider, ExampleTask | ExampleMixture)
