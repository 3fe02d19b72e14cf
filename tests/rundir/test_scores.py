"""Scores that are kept: of which parameters they are, what is missing of them, and who adds to them at once."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import types

import pytest
import runs

from cd_jax.errors import RequestError
from cd_jax.learning import evaluation
from cd_jax.report import table
from cd_jax.rundir import results, scores
from cd_jax.rundir.checkpoints import Checkpoints, Progress
from cd_jax.tasks import Sample
from cd_jax.types import Attempt, Example

SAMPLE = {"per_task": 6, "seed": 0}


def entry(task="t", step=8, parameters="new", role="target", **more):
    given = {"task": task, "role": role, "split": "test", "sample": SAMPLE, "decoding": {}, "memory": None}
    return given | {"step": step, "parameters": parameters, "n": 6} | more


def run_of(*evaluations, **more):
    return {
        "agent": "baseline",
        "seed": 0,
        "best_step": 8,
        "parameters": "new",
        "evaluations": list(evaluations),
    } | more


# Which are shown


def test_parameters_of_before_are_not_shown_where_a_run_comes_by_their_step_again():
    run = run_of(entry(accuracy=0.9, parameters="old"), entry(accuracy=0.1), entry("u", accuracy=0.9, parameters="old"))
    assert [(one["task"], one["accuracy"]) for one in scores.of_run(run, "target")] == [("t", 0.1)]
    [column] = table.columns({"meta": {}, "runs": [run]})
    assert table.value(run, column) == 0.1
    [shown] = scores.newest(run["evaluations"], "target", 8, "new")
    assert shown["accuracy"] == 0.1


def test_a_table_of_all_and_of_a_sample():
    whole = entry(accuracy=0.5, n=1000, sample={"per_task": None, "seed": 0})
    other = run_of(whole | {"accuracy": 0.25}, seed=1)
    made = table.run_table({"meta": {}, "runs": [run_of(whole, entry(accuracy=1.0)), other]})
    assert made.headers[2:4] == ("t (n=1000: all)", "t (n=6: 6 of each task by seed 0)")
    assert [row[2:4] for row in made.rows] == [("0.500", "1.000"), ("0.250", "–")]


# Which are made


class Trained:
    """Stands for `evaluate.TrainedRun`: what it says of itself is the run's, what it answers is made up."""

    asked: list[str] = []

    def __init__(self, model_dir, number=None):
        self.directory, self.round = pathlib.Path(model_dir), number or 0
        checkpoints = Checkpoints(model_dir, read_only=True)
        self.best_step, self.progress = checkpoints.best()
        self.steps, self.agent = checkpoints.latest_step(), self.progress.identity["agent"]
        checkpoints.close()
        self.truncated = {"prompts": 0.5}

    def attempt(self, task, split, sample):
        Trained.asked.append(task)
        return [Attempt(Example(f"{task}/{split}/{i}", task, "", "", "a"), "", "a", True, 1.0, []) for i in range(4)]

    def retrieved(self):
        return {}

    def setting(self):
        decoding = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "num_samples": 1, "num_beams": 1}
        parameters = self.progress.parameters[str(self.best_step)]
        return {"step": self.best_step, "parameters": parameters, "decoding": decoding, "memory": None, "setting": ""}


@pytest.fixture
def run_dir(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "TrainedRun", Trained)
    Trained.asked = []
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    return folder


def written(folder):
    [run] = json.loads((folder / "results.json").read_text())["runs"]
    return run


def test_a_damaged_file_is_told_before_anything_is_decoded(run_dir):
    (run_dir / "results.json").write_text('{"runs": [')
    with pytest.raises(RequestError, match=r"results\.json: not JSON: .*; delete it and evaluate the run again"):
        evaluation.evaluate(str(run_dir), "s", ["t"])
    assert Trained.asked == []


def test_what_an_older_version_wrote_is_kept(run_dir):
    step = Trained(run_dir).best_step
    older = {"agent": "cd_memory", "seed": 0, "best_step": step, "source": {"task": "s", "accuracy": 0.5, "n": 4}}
    older["targets"] = [{"task": "t", "accuracy": 0.25, "n": 9}, {"task": "u", "accuracy": 0.75, "n": 9}]
    (run_dir / "results.json").write_text(json.dumps({"meta": {}, "runs": [older]}))
    evaluation.evaluate(str(run_dir), "s", ["t"])
    found = written(run_dir)
    # That of four source questions was made again; those of nine are not what was asked for now.
    assert [(one["role"], one["task"], one["n"], one["accuracy"]) for one in found["evaluations"]] == [
        ("target", "t", 9, 0.25),
        ("target", "u", 9, 0.75),
        ("source", "s", 4, 1.0),
        ("target", "t", 4, 1.0),
    ]
    assert found["source"]["accuracy"] == 1.0
    assert [(one["task"], one["accuracy"]) for one in found["targets"]] == [("t", 1.0), ("u", 0.75)]
    assert results.read_results(run_dir)["runs"] == [found]


def test_each_score_is_there_as_soon_as_it_is_known(run_dir, monkeypatch):
    answered = Trained.attempt

    def ends(self, task, split, sample):
        if task == "u":
            raise KeyboardInterrupt
        return answered(self, task, split, sample)

    monkeypatch.setattr(Trained, "attempt", ends)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(str(run_dir), "s", ["t", "u", "v"])
    assert [one["task"] for one in written(run_dir)["evaluations"]] == ["s", "t"]


def test_the_last_evaluation_counts_as_the_newest_though_it_stands_where_it_stood(run_dir):
    for per_task in (3, None, 3):
        evaluation.evaluate(str(run_dir), "s", ["t"], per_task=per_task)
    found = written(run_dir)
    assert [one["sample"]["per_task"] for one in found["evaluations"] if one["task"] == "t"] == [3, None]
    assert [one["sample"]["per_task"] for one in found["targets"]] == [3]


@pytest.mark.parametrize("per_task", [0, -1])
def test_a_sample_of_none_is_refused(run_dir, per_task):
    with pytest.raises(RequestError, match=f"a sample of {per_task} examples a task is none; bind 1 or more, or None"):
        evaluation.evaluate(str(run_dir), "s", ["t"], per_task=per_task)
    assert Trained.asked == [] and not (run_dir / "results.json").exists()


def test_many_at_once_lose_nothing(tmp_path):
    progress = Progress({"seed": 0}, parameters={"8": "new"})
    trained = types.SimpleNamespace(directory=tmp_path, progress=progress, best_step=8, steps=8, agent="baseline")
    trained.round, trained.retrieved = 0, dict
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: evaluation._add(trained, entry(f"t{i}", accuracy=i / 100)), range(40)))
    found = written(tmp_path)["evaluations"]
    assert sorted((one["task"], one["accuracy"]) for one in found) == sorted((f"t{i}", i / 100) for i in range(40))
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


# What a demo leaves out


def only_missing(folder, **bound):
    given = {"SOURCE_PER_TASK": 5, "EVAL_PER_TASK": 6, "TARGETS": "['babi_qa6']", "evaluate.only_missing": True} | bound
    given = {name.replace(".", "__"): value for name, value in given.items()}
    return runs.here([*runs.arguments("eval", folder, MESH_MODEL=4, MESH_DATA=2, **given)])


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained[0], folder)
    assert only_missing(folder) == 0
    return folder


def refuse(model_dir, number):
    raise AssertionError("decodes")


@pytest.mark.parametrize("clock", ["copied", "results of long ago", "results of tomorrow"])
def test_the_clock_has_no_say(evaluated, tmp_path, monkeypatch, clock):
    folder = tmp_path / "run"
    shutil.copytree(evaluated, folder, copy_function=shutil.copy if clock == "copied" else shutil.copy2)
    if clock != "copied":
        time = 0 if clock == "results of long ago" else 2**32
        os.utime(folder / "results.json", (time, time))
    before = (folder / "results.json").read_bytes()
    monkeypatch.setattr(evaluation, "TrainedRun", refuse)
    assert only_missing(folder) == 0
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.parametrize("name", ["step", "parameters"])
def test_a_kill_between_checkpoint_and_results(evaluated, tmp_path, monkeypatch, name):
    """The results are of other parameters, also where they are of the same step."""
    folder = tmp_path / "run"
    shutil.copytree(evaluated, folder)
    found = json.loads((folder / "results.json").read_text())
    for one in found["runs"][0]["evaluations"]:
        one |= {name: {"step": 3, "parameters": "0" * 16}[name], "accuracy": 0.987}
    (folder / "results.json").write_text(json.dumps(found))
    monkeypatch.setattr(evaluation, "TrainedRun", Trained)
    Trained.asked = []
    assert only_missing(folder) == 0
    assert Trained.asked == [runs.SOURCE, "babi_qa6"]
    now = written(folder)
    assert [one["accuracy"] for one in (now["source"], *now["targets"])] == [1.0, 1.0]
    assert [one["accuracy"] for one in scores.of_run(now, "target")] == [1.0]
    # Kept, though.
    assert [one["accuracy"] for one in now["evaluations"]] == [0.987, 0.987, 1.0, 1.0]


def test_another_sample_is_missing_and_the_rest_is_not(evaluated, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(evaluated, folder)
    monkeypatch.setattr(evaluation, "TrainedRun", Trained)
    Trained.asked = []
    assert only_missing(folder, EVAL_PER_TASK=7) == 0
    assert Trained.asked == ["babi_qa6"]
    assert Sample(7, 0).record() in [one["sample"] for one in written(folder)["evaluations"]]
