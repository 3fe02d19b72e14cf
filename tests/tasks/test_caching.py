"""SeqIO's offline caching of the tasks, by its own command."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import seqio

from cd_jax import tasks
from cd_jax.errors import RequestError
from cd_jax.tasks import vocabulary as vocabularies

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("apache_beam"),
    reason="offline caching needs apache-beam: pip install 'cd_jax[tfds]'",
)

LENGTHS = {"inputs": 512, "targets": 64}
CACHED = [("babi_qa1", "train"), ("babi_qa1", "test"), ("com2sense", "validation")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory, user_environment):
    folder = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-m", "seqio.scripts.cache_tasks_main", "--module_import=cd_jax.tasks", "--min_shards=4"]
    command += [f"--tasks={','.join({task for task, _ in CACHED})}", f"--output_cache_dir={folder}"]
    subprocess.run(command, check=True, env=user_environment)
    return folder


@pytest.fixture(autouse=True)
def use_cache(cache):
    """Tasks that have not yet looked for a cache, and look there."""
    seqio.set_global_cache_dirs([str(cache)])
    tasks.register()
    yield
    seqio.set_global_cache_dirs([])
    tasks.register()


def rows(task, split, **settings):
    dataset = seqio.get_mixture_or_task(task).get_dataset(LENGTHS, split=split, num_epochs=1, **settings)
    return list(dataset.as_numpy_iterator())


def ids(examples):
    return [row["example_id"] for row in examples]


@pytest.mark.parametrize(("task", "split"), CACHED)
def test_cached_rows_are_those_made_on_the_fly(task, split):
    cached = {row["example_id"]: row for row in rows(task, split, use_cached=True, shuffle=False)}
    fresh = rows(task, split, use_cached=False, shuffle=False)
    assert len(cached) == len(fresh) > 0
    for row in fresh:
        assert row.keys() == cached[row["example_id"]].keys()
        for name, value in row.items():
            np.testing.assert_array_equal(value, cached[row["example_id"]][name])


def test_statistics_count_examples_and_tokens(cache):
    statistics = json.loads((cache / "babi_qa1" / "stats.train.json").read_text())
    fresh = rows("babi_qa1", "train", use_cached=False, shuffle=False)
    assert statistics["examples"] == len(fresh)
    # The end of sequence is not counted.
    assert statistics["inputs_tokens"] == sum(len(row["inputs"]) - 1 for row in fresh)


def test_the_seed_alone_orders_a_shuffled_cache():
    first, again, other = (
        ids(rows("babi_qa1", "train", use_cached=True, shuffle=True, seed=seed)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(first) == sorted(other)
    assert first != ids(rows("babi_qa1", "train", use_cached=True, shuffle=False))


def test_hosts_share_a_cache_out():
    shards = [
        ids(rows("babi_qa1", "train", use_cached=True, shuffle=True, seed=0, shard_info=seqio.ShardInfo(index, 4)))
        for index in range(4)
    ]
    assert sorted(sum(shards, [])) == sorted(ids(rows("babi_qa1", "train", use_cached=False, shuffle=False)))


def test_a_cache_of_other_data_is_refused(tmp_path):
    story = "1 Mary moved to the attic.\n2 Where is Mary? \tattic\t1\n"
    for split in ("train", "valid", "test"):
        (tmp_path / f"qa1_{split}.txt").write_text(story * 3)
    tasks.register(babi_dir=tmp_path)
    with pytest.raises(RequestError, match="was made of other data, or with another vocabulary, than babi_qa1"):
        rows("babi_qa1", "train", use_cached=True)
    assert len(rows("babi_qa1", "train", use_cached=False)) == 3


def test_a_cache_of_another_vocabulary_is_refused(tmp_path):
    path = tmp_path / "other.model"
    path.write_bytes(vocabularies.train(vocabularies.embedded_texts()[:300], 350))
    tasks.register(vocabulary=path)
    with pytest.raises(RequestError, match="or with another vocabulary"):
        rows("babi_qa1", "train", use_cached=True)
