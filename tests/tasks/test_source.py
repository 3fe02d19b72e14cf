"""The order of a task's examples: by seed, on several hosts, and after a restart."""

import collections
import itertools
import os
import subprocess
import sys

import pytest
import seqio
import tensorflow as tf

from cd_jax import tasks
from cd_jax.tasks import source


@pytest.fixture(scope="module", autouse=True)
def embedded():
    """Whatever vocabulary was in use before."""
    tasks.register()


TASK = "babi_qa12_short"
SIZE = 500


def dataset(task=TASK, split="test", shard=None, seed=3, epochs=2, shuffle=True):
    info = None if shard is None else seqio.ShardInfo(*shard)
    return seqio.TaskRegistry.get(task).get_dataset(
        None, split, shuffle=shuffle, seed=seed, shard_info=info, num_epochs=epochs
    )


def ids(rows):
    return [row["example_id"].decode() for row in rows.as_numpy_iterator()]


@pytest.mark.parametrize("hosts", [4, 8])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("task", [TASK, "babi_qa6_low_data", "babi_qa6"])
def test_the_rows_of_several_hosts_in_turn_are_those_of_one(task, hosts, shuffle):
    """Over two epochs, of a size that the hosts divide or not, or that is smaller than their number."""
    split = "test" if task == TASK else "train"
    alone = ids(dataset(task, split, shuffle=shuffle))
    parts = [ids(dataset(task, split, (host, hosts), shuffle=shuffle)) for host in range(hosts)]
    assert [row for rows in itertools.zip_longest(*parts) for row in rows if row] == alone


def test_so_they_are_of_a_mixture():
    # Five rows of each of two tasks; eight hosts.
    seqio.MixtureRegistry.remove("test_pair")
    seqio.MixtureRegistry.add_provider(
        "test_pair", source.ExampleMixture("test_pair", ["babi_qa1_low_data", "babi_qa6_low_data"], default_rate=1.0)
    )
    alone = mixed(None)
    parts = [mixed(seqio.ShardInfo(host, 8)) for host in range(8)]
    assert [parts[i % 8][i // 8] for i in range(len(alone))] == alone
    assert len(set(alone)) == 10


def mixed(shard):
    rows = seqio.get_mixture_or_task("test_pair").get_dataset(
        None, "train", seed=0, shard_info=shard, passthrough_features=["example_id"]
    )
    return ids(rows.take(64 if shard is None else 8))


def test_registered_mixtures_share_their_stream():
    assert isinstance(seqio.MixtureRegistry.get("babi_all"), source.ExampleMixture)


def test_every_epoch_has_all_examples_in_an_order_of_its_own():
    rows = ids(dataset())
    first, second = rows[:SIZE], rows[SIZE:]
    expected = [example.example_id for example in tasks.Catalogue().examples(TASK, "test")]
    assert sorted(first) == sorted(second) == sorted(expected)
    assert first != second != expected


def test_the_seed_decides():
    assert ids(dataset(seed=3)) == ids(dataset(seed=3)) != ids(dataset(seed=4))


def test_hosts_without_a_seed_share_nothing():
    parts = [ids(dataset(shard=(host, 4), seed=None, epochs=1)) for host in range(4)]
    counted = collections.Counter(sum(parts, []))
    assert len(counted) == SIZE
    assert set(counted.values()) == {1}


@pytest.mark.parametrize("shard", [None, (1, 4)])
def test_a_restart_within_an_epoch_goes_on_where_it_was(tmp_path, shard):
    whole = ids(dataset(shard=shard))
    iterator = iter(dataset(shard=shard))
    size = len(whole) // 2
    # In the second epoch, so that its order must come back, too.
    read = size + size // 3
    for _ in range(read):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "iterator"))
    again = iter(dataset(shard=shard))
    tf.train.Checkpoint(iterator=again).read(saved)
    assert [row["example_id"].numpy().decode() for row in again] == whole[read:]


PROGRAM = """
import seqio, cd_jax.tasks
rows = seqio.get_mixture_or_task("babi_qa6_low_data").get_dataset(
    {"inputs": 64, "targets": 16}, "train", seed=5, num_epochs=8
)
for row in rows.take(40).as_numpy_iterator():
    print(row["inputs"].tolist())
"""


def test_another_process_sees_the_same(user_environment):
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**user_environment, "PYTHONHASHSEED": seed, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=True,
            cwd=os.path.expanduser("~"),
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == 40


def test_a_prompt_that_does_not_fit_keeps_its_question():
    task = seqio.TaskRegistry.get("babi_qa3")
    vocabulary = task.output_features["inputs"].vocabulary
    rows = list(task.get_dataset({"inputs": 16, "targets": 8}, "test", shuffle=False).take(5).as_numpy_iterator())
    for row, example in zip(rows, tasks.Catalogue().examples("babi_qa3", "test"), strict=False):
        assert len(row["inputs"]) == 16 and row["inputs"][-1] == vocabulary.eos_id
        assert vocabulary.decode(row["inputs"].tolist()).endswith(example.question)
