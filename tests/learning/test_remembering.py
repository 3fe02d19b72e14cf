"""`cd_jax remember`: what a trained run is told after training, and what it forgets again."""

import json
import shutil

import pytest
import runs


@pytest.fixture
def run_dir(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    return folder


def remember(folder, *flags, **bound):
    return runs.here(runs.arguments("remember", folder, *flags, MESH_MODEL=4, MESH_DATA=2, **bound))


def entries(folder):
    return [json.loads(line) for line in (folder / "memory" / "entries.jsonl").read_text().splitlines()]


def test_told_and_forgotten_again(run_dir, capfd):
    before = entries(run_dir)
    assert remember(run_dir, SOURCE="'babi_qa6_low_data'", remember__per_task=3) == 0
    told = entries(run_dir)
    fresh = [line for line in told if line["task"].startswith("babi_qa6")]
    assert len({line["example_id"] for line in fresh}) == 3 and len(told) == len(before) + len(fresh)
    assert f"{len(fresh)} entries of 3 examples of babi_qa6_low_data remembered" in capfd.readouterr().out
    # What training left is kept.
    kept = (run_dir / "memory" / "trained" / "entries.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in kept] == [line["update"] for line in before]
    assert remember(run_dir, remember__forget="'babi_qa6_low_data'") == 0
    assert [line["update"] for line in entries(run_dir)] == [line["update"] for line in before]


def test_scores_after_are_told_apart(run_dir):
    asked = {"SOURCE_PER_TASK": 2, "EVAL_PER_TASK": 3, "TARGETS": "['babi_qa6']", "MESH_MODEL": 4, "MESH_DATA": 2}
    assert runs.here(runs.arguments("eval", run_dir, **asked)) == 0
    assert remember(run_dir, SOURCE="'babi_qa6'", remember__per_task=2) == 0
    assert runs.here(runs.arguments("eval", run_dir, **asked)) == 0
    [run] = json.loads((run_dir / "results.json").read_text())["runs"]
    scores = [one for one in run["evaluations"] if one["task"] == "babi_qa6"]
    assert [one["setting"] for one in scores] == ["", "told after training"]


@pytest.mark.parametrize(
    ("bound", "named"),
    [
        ({}, ["--gin.SOURCE", "--gin.remember.forget"]),
        ({"remember__forget": "'babi_qa6'"}, ["holds nothing of 'babi_qa6'", runs.SOURCE.removesuffix("_low_data")]),
        ({"SOURCE": "'babi_qa99'"}, ["no task or mixture 'babi_qa99'"]),
    ],
)
def test_refused_in_one_line_and_nothing_changes(run_dir, capfd, bound, named):
    before = (run_dir / "memory" / "entries.jsonl").read_bytes()
    assert remember(run_dir, **bound) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cd_jax: ")]
    assert all(part in line for part in named)
    assert (run_dir / "memory" / "entries.jsonl").read_bytes() == before
