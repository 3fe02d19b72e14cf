"""Training: what a kill must not change, when it ends, and what it leaves behind."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import runs

from cd_jax.learning.trainer import Budget
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.memory.values import choose_entries
from cd_jax.rundir.checkpoints import Checkpoints, Progress, fingerprints
from cd_jax.solver.solver import TrainState
from cd_jax.types import Example, Update

# Differ between runs of the same numbers.
CLOCKS = ("examples_per_second", "train_seconds")


def metrics_of(model_dir: pathlib.Path) -> list[dict]:
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]


def restored(model_dir: pathlib.Path, step: int) -> tuple:
    """All leaves of a checkpoint as Orbax finds them, without our network; what it holds of memory; the progress."""
    folder = model_dir / "checkpoints" / str(step)
    state = ocp.StandardCheckpointer().restore(folder / "state")
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    remembered = ocp.StandardCheckpointer().restore(folder / "memory")
    checkpoints = Checkpoints(model_dir, read_only=True)
    progress = checkpoints.progress(step)
    checkpoints.close()
    return leaves, {name: np.asarray(value) for name, value in remembered.items()}, progress


def test_a_run_is_quiet_and_whole(trained):
    folder, process = trained
    assert (process.returncode, process.stderr) == (0, "")
    assert [line["step"] for line in metrics_of(folder) if "loss" in line] == list(range(2, runs.STEPS + 1, 2))
    assert [line["step"] for line in metrics_of(folder) if "validation_error" in line] == [4, 8, 12, 16]
    assert all(np.isfinite(value) for line in metrics_of(folder) for value in line.values())
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents")}
    assert names == {"checkpoints", "config.gin", "memory", "metrics.jsonl", "vocabulary.model"}
    assert any(path.name.startswith("events.out.tfevents") for path in folder.iterdir())


@pytest.mark.slow
def test_three_kills_change_nothing(trained, distilled, tmp_path, user_environment):
    whole, _ = trained
    folder = tmp_path / "run"
    given = runs.train_arguments(folder, distilled)
    # Before the first checkpoint; two steps after one in the middle of an epoch; after one at an epoch's end.
    killed_at(((2, None), (6, None), (14, 4)), folder, given, user_environment)
    last = runs.command(given, user_environment)
    assert (last.returncode, last.stderr) == (0, "")
    assert "resumes from step 12" in last.stdout
    assert_same(folder, whole, {"used", "used_before"})


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_signals_save_and_change_nothing(cached, distilled, tmp_path, user_environment):
    """In the middle of an epoch, where what is encoded is of parameters before; at an evaluation; at an epoch's end."""
    folders = [tmp_path / name for name in ("stopped", "whole")]
    bound = {"CACHE_PASSAGES": cached, "CONTRASTIVE_WEIGHT": 0.5, "NUM_NEGATIVES": 2, "Contrast.attempts": 4}
    arguments = [runs.train_arguments(folder, distilled, **bound) for folder in folders]
    for name, status, step in (("SIGINT", 130, 2), ("SIGTERM", 143, 8), ("SIGINT", 130, 12), ("SIGTERM", 143, 14)):
        stopped = runs.command_until(step, name, folders[0], arguments[0], user_environment)
        assert stopped.returncode == status, stopped.stderr
        told = stopped.stderr.splitlines()
        assert told[0] == f"cd_jax: {name}: ends at the next safe place; once more ends it at once"
        said = f"saved at step {step} in {folders[0]}; the same command goes on from there"
        assert told[1:] == [f"cd_jax: interrupted by {name}: {said}"]
        assert Checkpoints(folders[0], read_only=True).latest_step() == step
    for given in arguments:
        ended = runs.command(given, user_environment)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert_same(*folders, {"used", "used_before", "prior_answers", "prior_right", "prior_wrong", "wrong_updates"})


def test_a_signal_between_evaluations_saves_what_the_run_goes_on_from(trained, distilled, tmp_path, user_environment):
    whole, _ = trained
    folder = tmp_path / "run"
    given = runs.train_arguments(folder, distilled)
    stopped = runs.command_until(6, "SIGTERM", folder, given, user_environment)
    assert stopped.returncode == 143
    assert f"saved at step 6 in {folder}; the same command goes on from there" in stopped.stderr
    checkpoints = Checkpoints(folder, read_only=True)
    assert checkpoints.latest_step() == 6 and checkpoints.best()[0] == 4
    checkpoints.close()
    ended = runs.command(given, user_environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "resumes from step 6" in ended.stdout
    assert_same(folder, whole, {"used", "used_before"})


@pytest.mark.slow
def test_a_folder_that_goes_away_ends_the_run(distilled, tmp_path, user_environment):
    folder = tmp_path / "run"
    ended = runs.command_until(6, "gone", folder, runs.train_arguments(folder, distilled), user_environment)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith(f"cd_jax: {folder}") and ended.stderr.count("\n") == 1


def test_two_at_once(trained, distilled, tmp_path, capfd):
    """The second is refused, and the first has lost nothing."""
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    before = runs.snapshot(folder)
    holds = f"import sys\nfrom cd_jax.rundir import lock\nwith lock.exclusive({str(folder)!r}, 'train'):\n"
    holds += "  print('ready', flush=True)\n  sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        given = runs.train_arguments(folder, distilled, TRAIN_STEPS=20, MESH_MODEL=4, MESH_DATA=2)
        assert runs.here(given) == 2
        assert f"{folder}: cd_jax train (process {other.pid}) writes there now" in capfd.readouterr().err
        other.stdin.close()
        other.wait()
    assert runs.snapshot(folder) == before


@pytest.mark.parametrize(
    ("bound", "name"),
    [
        ({"LEARNING_RATE": 0.02}, "warmup_cosine_decay_schedule.peak_value"),
        ({"EVAL_PERIOD": 8}, "train.eval_period"),
        ({"DECAY_STEPS": 50}, "warmup_cosine_decay_schedule.decay_steps"),
        ({"ANSWER_WEIGHT": 3.0}, "SelfLearningProcess.answer_weight"),
    ],
)
def test_what_would_change_the_result_is_refused(bound, name, trained, distilled, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    before = runs.snapshot(folder)
    on_eight = {"MESH_MODEL": 4, "MESH_DATA": 2}
    assert runs.here(runs.train_arguments(folder, distilled, TRAIN_STEPS=20, **on_eight, **bound)) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and "not " in error
    assert name in error or name.rpartition(".")[2] in error, error
    assert runs.snapshot(folder) == before


@pytest.mark.slow
def test_a_damaged_checkpoint_does_not_spoil_those_beside_it(trained, distilled, tmp_path, user_environment):
    """A flipped bit of an array; the newest is told and left out, and what comes of it is what came before."""
    whole, _ = trained
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    checkpoints = Checkpoints(folder, read_only=True)
    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    best = checkpoints.best()[0]
    checkpoints.close()
    assert len(steps) == 2 and best == steps[0]
    data = max((folder / "checkpoints" / str(steps[1]) / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 16
    data.write_bytes(bytes(content))
    ended = runs.command(runs.train_arguments(folder, distilled), user_environment)
    assert ended.returncode == 0, ended.stderr
    assert "is not what was saved" in ended.stderr and "meanwhile the one before it serves" in ended.stderr
    assert f"resumes from step {steps[0]}" in ended.stdout
    assert_same(folder, whole, {"used", "used_before"})


@pytest.mark.slow
def test_a_kill_changes_nothing_of_what_a_contrastive_term_learns(distilled, tmp_path, user_environment):
    """The prior, and the solver's own wrong updates, which are of attempts before the epoch began."""
    folders = [tmp_path / name for name in ("killed", "whole")]
    bound = {"CONTRASTIVE_WEIGHT": 0.5, "NUM_NEGATIVES": 2, "Contrast.attempts": 4}
    arguments = [runs.train_arguments(folder, distilled, **bound) for folder in folders]
    killed_at(((10, None),), folders[0], arguments[0], user_environment)
    for given, resumes in zip(arguments, (True, False), strict=True):
        ended = runs.command(given, user_environment)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ("resumes from step 8" in ended.stdout) == resumes
    assert_same(*folders, {"used", "used_before", "prior_answers", "prior_right", "prior_wrong", "wrong_updates"})


def killed_at(kills, folder: pathlib.Path, given: list[str], environment: dict[str, str]) -> None:
    """Runs that are killed at a step, each after it went on from a checkpoint, or from none."""
    for step, resumed in kills:
        killed = runs.command_until(step, "kill", folder, given, environment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert (f"resumes from step {resumed}" in killed.stdout) == (resumed is not None)


def assert_same(folder: pathlib.Path, whole: pathlib.Path, remembered: set[str]) -> None:
    """Two runs came to the same end, on the same way; their last checkpoint holds this of the memory."""
    assert metrics_of(folder) == metrics_of(whole)
    (leaves, memory, progress), (expected, expected_memory, expected_progress) = (
        restored(path, runs.STEPS) for path in (folder, whole)
    )
    assert leaves.keys() == expected.keys()
    assert len(leaves) > 50
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)
    assert memory.keys() == expected_memory.keys() == remembered
    for name, value in memory.items():
        # So short a run may give no right answer at all.
        assert value.any() or name in ("prior_right", "used_before")
        np.testing.assert_array_equal(value, expected_memory[name], err_msg=name)
    assert progress.validation == expected_progress.validation
    assert [path.name for path in (folder / "memory").iterdir()] == ["entries.jsonl"]
    assert (folder / "memory" / "entries.jsonl").read_bytes() == (whole / "memory" / "entries.jsonl").read_bytes()


def test_a_finished_run_says_so_and_writes_nothing(trained, distilled, capfd):
    folder, _ = trained
    before = runs.snapshot(folder)
    # Eight devices along `model`, so that a batch of 2 fits: a checkpoint of one device serves on any mesh.
    assert runs.here(runs.train_arguments(folder, distilled, MESH_MODEL=4, MESH_DATA=2)) == 0
    said = capfd.readouterr()
    assert f"is done: {runs.STEPS} of {runs.STEPS} steps in " in said.out and "all steps are done (budget)" in said.out
    assert said.err == ""
    assert runs.snapshot(folder) == before


def test_more_steps_go_on_from_the_last_checkpoint_on_another_mesh(trained, distilled, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    assert runs.here(runs.train_arguments(folder, distilled, MESH_MODEL=4, MESH_DATA=2, TRAIN_STEPS=20)) == 0
    said = capfd.readouterr()
    assert f"resumes from step {runs.STEPS}" in said.out
    assert said.err == ""
    assert metrics_of(folder)[: len(metrics_of(trained[0]))] == metrics_of(trained[0])
    assert [line["step"] for line in metrics_of(folder) if "loss" in line][-2:] == [18, 20]
    kept = {int(path.name) for path in (folder / "checkpoints").iterdir()}
    checkpoints = Checkpoints(folder, read_only=True)
    progress = checkpoints.progress(20)
    checkpoints.close()
    assert [step for step, _ in progress.validation] == [4, 8, 12, 16, 20]
    assert kept == {20, int(progress.best()[0])}


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run(distilled, tmp_path, user_environment):
    folder = tmp_path / "run"
    given = runs.train_arguments(folder, distilled, AGENT="'baseline'", LEARNING_RATE="1e30")
    process = runs.command(given, user_environment)
    assert process.returncode == 1
    assert process.stderr.startswith(f"cd_jax: {folder}: the loss is nan at step ")
    assert "bind a lower LEARNING_RATE and another --model_dir" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (folder / "checkpoints").exists() or not list((folder / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_it_goes_on(distilled, tmp_path, user_environment):
    folder = tmp_path / "run"
    given = runs.train_arguments(folder, distilled)
    process = runs.command_until(6, "full", folder, given, user_environment)
    assert process.returncode == 1
    assert process.stderr.startswith(f"cd_jax: {folder}/metrics.jsonl: No space left on device; ")
    assert process.stderr.count("\n") == 1
    # What was saved before is whole, though it was still on its way to the disk.
    leaves, remembered, progress = restored(folder, 4)
    assert progress.validation[0][0] == 4
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    # Of a memory with room for 1,000: two queries of both examples of four steps.
    assert remembered["used"].shape == (1000,)
    assert remembered["used"].sum() == 2 * 2 * 4


def test_who_asks_the_same_is_shown_nothing_of_it():
    """Whether what explains the one, the other or neither found room in memory, and in whatever words."""
    examples = [
        Example(name, "t", prompt, "", "y") for name, prompt in (("a", "P"), ("b", "P"), ("c", "P"), ("d", "Q"))
    ]
    updates = {
        name: [Update(name, "t", text, "oracle", "p", 0, 0)] for name, text in (("a", "u"), ("b", "v"), ("d", "u"))
    }
    memory = EpisodicMemory()
    memory.add(choose_entries(examples, updates, memory.capacity, 0))
    memory.introduce(examples)
    assert len(memory.rows()) == 3
    a, b, c, d = memory.owner_ids(["a", "b", "c", "d"])
    assert a == b == c != d


# When it ends: no run needed


def progress_of(*errors: float, seconds: float = 0.0) -> Progress:
    return Progress({}, [[100 * (i + 1), error] for i, error in enumerate(errors)], seconds)


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ((0.9,), ""),
        ((0.9, 0.9, 0.9), ""),
        # Equal is no improvement.
        ((0.9, 0.9, 0.9, 0.9), "plateau"),
        ((0.9, 0.5, 0.6, 0.7), ""),
        ((0.9, 0.5, 0.6, 0.7, 0.8), "plateau"),
        ((0.9, 0.5, 0.6, 0.7, 0.4), ""),
        # Near misses of the best do not count.
        ((0.5, 0.9, 0.8, 0.7), "plateau"),
    ],
)
def test_a_plateau_is_patience_evaluations_without_a_new_best(errors, verdict):
    budget = Budget(steps=10_000, patience=3)
    assert budget.verdict(100 * len(errors), progress_of(*errors)) == (verdict, "")


@pytest.mark.parametrize(
    ("step", "seconds", "verdict"),
    [(500, 0.0, ""), (1000, 0.0, "steps"), (1001, 0.0, "steps"), (500, 59.9, ""), (500, 60.0, "seconds")],
)
def test_a_budget_is_of_steps_and_of_seconds(step, seconds, verdict):
    budget = Budget(steps=1000, seconds=60.0, patience=5)
    assert budget.verdict(step, progress_of(0.9, seconds=seconds)) == (verdict and "budget", verdict)


def test_no_seconds_are_no_limit():
    assert Budget(steps=1000).verdict(1, progress_of(0.9, seconds=1e9)) == ("", "")


def test_the_best_is_the_first_of_equals():
    assert progress_of(0.5, 0.3, 0.3, 0.4).best() == [200, 0.3]
    assert progress_of(0.5, 0.3, 0.3, 0.4).evaluations_since_best() == 2


# Which checkpoints stay


def test_the_latest_and_the_best_checkpoint_stay_over_interruptions(tmp_path):
    kept = []
    validation = []
    for step, error in ((4, 0.9), (8, 0.5), (12, 0.6), (16, 0.5), (20, 0.4), (24, 0.7)):
        validation.append([step, error])
        # Opened anew each time, as by a run that is killed after every checkpoint.
        checkpoints = Checkpoints(tmp_path)
        state = TrainState(jnp.int32(step), {"kernel": jnp.full(3, step, jnp.float32)}, {})
        checkpoints.save(step, state, {}, Progress({"seed": 3}, list(validation)))
        checkpoints.close()
        kept.append({int(path.name) for path in (tmp_path / "checkpoints").iterdir()})
    assert kept == [{4}, {8}, {8, 12}, {8, 16}, {20}, {20, 24}]
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.progress(24).best() == [20, 0.4]
    np.testing.assert_array_equal(
        checkpoints.restore_params(20, jax.eval_shape(lambda: state.params))["kernel"], [20.0] * 3
    )
    checkpoints.close()


# Fingerprints


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_a_fingerprint_sees_every_bit(dtype):
    array = jax.random.normal(jax.random.key(0), (5, 3)).astype(dtype)
    width = array.dtype.itemsize
    content = np.asarray(array).tobytes()
    seen = {fingerprints({"a": array})["a"]}
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        other = np.frombuffer(bytes(flipped), np.asarray(array).dtype).reshape(5, 3)
        number = fingerprints({"a": jnp.asarray(other)})["a"]
        assert number != fingerprints({"a": array})["a"]
        seen.add(number)
    # Few share one: a sum modulo 2^32.
    assert len(seen) > 0.9 * 8 * width * 15


def test_a_fingerprint_does_not_depend_on_the_mesh():
    array = jax.random.normal(jax.random.key(0), (16, 8))
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    for spec in (jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec(None, "model")):
        placed = jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))
        assert fingerprints({"a": placed}) == fingerprints({"a": array})
    assert fingerprints({"a": array.T}) != fingerprints({"a": array})


@pytest.mark.parametrize("rounds", [1, 2, 3, 7])
def test_rounds_share_the_steps_evenly(rounds):
    budget = Budget(steps=1000, seconds=60.0)
    ends = [budget.until((number + 1) / rounds) for number in range(rounds)]
    assert ends[-1] == 1000
    lengths = np.diff([0, *ends])
    assert lengths.max() - lengths.min() <= 1
    progress = progress_of(0.9, 0.5, seconds=60 / rounds)
    assert budget.verdict(ends[0], progress_of(0.9), 1 / rounds) == ("budget", "steps")
    assert budget.verdict(0, progress, 1 / rounds) == ("budget", "seconds")
    assert budget.verdict(0, progress_of(0.9), 1 / rounds) == ("", "")


def test_each_round_has_its_own_best_evaluation():
    validation = [[100, 0.2], [200, 0.5], [300, 0.4], [400, 0.4], [500, 0.9]]
    progress = Progress({}, validation, rounds=[{"first_step": 0}, {"first_step": 200}, {"first_step": 450}])
    assert [progress.evaluations(number) for number in range(3)] == [validation[:2], validation[2:4], validation[4:]]
    assert [progress.best(number)[0] for number in range(3)] == [100, 300, 500]
    assert progress.best()[0] == 500 and progress.last_evaluated() == 2 and progress.evaluations_since_best() == 0
    begun = Progress({}, validation[:4], rounds=progress.rounds)
    # The last round has not been evaluated yet: the one before it counts.
    assert begun.best()[0] == 300 and begun.last_evaluated() == 1
    older = Progress({}, validation)
    assert older.best()[0] == 100 and older.evaluations(0) == validation
