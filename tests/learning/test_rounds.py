"""Several rounds: each goes on from the one before, and a killed run comes to the same."""

import json
import shutil

import pytest
import runs

from cd_jax.rundir.checkpoints import Checkpoints

# Two rounds of 8 steps; memory has no room for all, and counts who is used; what is retrieved teaches the prior.
ROUNDS = {
    "ROUNDS": 2,
    "Rounds.examples": 4,
    "Rounds.samples": 2,
    "EpisodicMemory.capacity": 14,
    "EpisodicMemory.evict": "'least_used'",
    "INPUT_LENGTH": 96,
    "CONTRASTIVE_WEIGHT": 0.2,
    "Contrast.attempts": 3,
    "Explanations.teacher": "@Echo",
}
# What the solver says of an example decides what is written of it.
ECHO = """
import gin
from cd_jax.update.teachers.teacher import Explanation


@gin.configurable
class Echo:
    name = "echo"

    def explain(self, example, attempt, num_updates, seed):
        said = (attempt or '')[:12]
        return [Explanation(f"{i}: not {said!r} but {example.answer}.", "echo") for i in range(num_updates)]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, user_environment):
    """A folder with a teacher and updates, and how a run of two rounds is started there."""
    folder = tmp_path_factory.mktemp("rounds")
    (folder / "echo.py").write_text(ECHO)
    environment = user_environment | {"PYTHONPATH": str(folder)}
    distilled = runs.command(runs.arguments("distill", folder / "d", SOURCE=f"'{runs.SOURCE}'"), environment)
    assert distilled.returncode == 0, distilled.stderr
    given = {name.replace(".", "__"): value for name, value in ROUNDS.items()}

    def arguments(model_dir):
        return runs.train_arguments(model_dir, folder / "d", "--module_import=echo", **given)

    whole = runs.command(arguments(folder / "whole"), environment)
    assert whole.returncode == 0, whole.stderr
    return folder, environment, arguments


def outcome(folder):
    checkpoints = Checkpoints(folder, read_only=True)
    progress = checkpoints.progress(checkpoints.latest_step())
    checkpoints.close()
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("examples_per_second", "train_seconds")
    told = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jsonl")}
    return {
        "fingerprints": progress.fingerprints,
        "parameters": progress.parameters,
        "rounds": [{k: v for k, v in one.items() if k not in clocks} for one in progress.rounds],
        "metrics": [{k: v for k, v in line.items() if k not in clocks} for line in metrics],
        "files": {name: content for name, content in told.items() if "metrics" not in name},
    }


def test_what_a_round_leaves(world):
    folder = world[0] / "whole"
    found = outcome(folder)
    assert [one["first_step"] for one in found["rounds"]] == [0, 8]
    assert [one["last_step"] for one in found["rounds"]] == [8, 16]
    written = [json.loads(line) for line in (folder / "updates.jsonl").read_text().splitlines()]
    attempts = [
        json.loads(line)
        for line in (folder / "inference" / f"{runs.SOURCE}_train_round1-8.jsonl").read_text().splitlines()
    ]
    assert len(attempts) == 8 and {line["sample"] for line in attempts} == {0, 1}
    wrong = {line["example_id"] for line in attempts if not line["correct"]}
    # Three updates of each example that was answered wrong, after those of before the first round.
    assert {line["example_id"] for line in written} == wrong
    assert all(line["round"] == 1 and line["sample"] >= 3 for line in written) and len(written) == 3 * len(wrong)
    second = found["rounds"][1]
    assert (second["attempts"], second["written"]) == (8, len(written))
    held = [json.loads(line) for line in (folder / "memory" / "entries.jsonl").read_text().splitlines()]
    assert len(held) == 14 and sum(line["round"] == 1 for line in held) == second["kept"]
    before = (folder / "memory" / "round0" / "entries.jsonl").read_text().splitlines()
    assert len(before) == 14 and not any(json.loads(line)["round"] for line in before)


@pytest.mark.parametrize(
    "step", [10, pytest.param(6, marks=pytest.mark.slow), pytest.param(14, marks=pytest.mark.slow)]
)
def test_a_killed_run_comes_to_the_same(world, step):
    folder, environment, arguments = world
    killed = folder / f"killed{step}"
    ended = runs.command_until(step, "kill", killed, arguments(killed), environment)
    assert ended.returncode == -9
    again = runs.command(arguments(killed), environment)
    assert again.returncode == 0, again.stderr
    assert outcome(killed) == outcome(folder / "whole")
    shutil.rmtree(killed)


def test_each_round_is_scored_with_its_own_memory(world):
    folder, environment, _ = world
    asked = runs.arguments("eval", folder / "whole", "--module_import=echo", SOURCE_PER_TASK=4, TARGETS="['babi_qa6']")
    done = runs.command([*asked, "--gin.EVAL_PER_TASK=4"], environment)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "whole" / "results.json").read_text())["runs"]
    assert [(run["round"], run["rounds"], run["steps"]) for run in results] == [(0, 2, 8), (1, 2, 16)]
    assert results[0]["best_step"] <= 8 < results[1]["best_step"]
    assert results[1]["updates"]["attempts"] == 8
