"""An experiment: every run has a fresh configuration, and arms of one agent stand side by side."""

import json

import gin
import pytest
import runs

from cd_jax.config import library
from cd_jax.config.configuration import Configuration
from cd_jax.errors import RequestError
from cd_jax.experiment import plan, runner

ARMS = {"fixed": {"AGENT": "cd_memory", "TRAIN_RETRIEVAL": "fixed"}, "cd_memory": {}, "short": {"AGENT": "baseline"}}
NEWER = ("ARM =", "ARMS =", "train.arm =", "demo.arms =")
ARMS["short"]["train.eval_per_task"] = 4


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    gin.clear_config()


@pytest.fixture
def done(monkeypatch):
    """What was called, with what gin bound then."""
    calls = []

    def note(name, model_dir, **_):
        bound = [gin.query_parameter(f"{macro}/macro.value") for macro in ("AGENT", "SEED", "ARM", "TRAIN_RETRIEVAL")]
        calls.append((name, str(model_dir).rpartition("/")[2], *bound, "train.eval_per_task = 4" in gin.config_str()))

    for name in ("train", "evaluate", "check_targets"):
        monkeypatch.setattr(runner, name, lambda model_dir, name=name, **more: note(name, model_dir, **more))
    return calls


def experiment(folder, arms=ARMS, seeds=(0, 1), *statements) -> runner.Experiment:
    folder.mkdir(exist_ok=True)
    configuration = Configuration([library.packaged("runs/demo.gin")], statements)
    configuration.apply()
    return runner.Experiment(str(folder), configuration, plan.plan(str(folder), seeds=list(seeds), arms=arms))


def test_nothing_of_a_run_is_left_for_the_next(tmp_path, done):
    made = experiment(tmp_path)
    for run in made.runs:
        made.do(run)
    assert [call for call in done if call[0] == "train"] == [
        ("train", f"{arm}-seed{seed}", agent, seed, arm, retrieval, arm == "short")
        for seed in (0, 1)
        for arm, agent, retrieval in (
            ("fixed", "cd_memory", "fixed"), ("cd_memory", "cd_memory", "random"), ("short", "baseline", "random")
        )
    ]  # fmt: skip
    assert [call[1:] for call in done[::2]] == [call[1:] for call in done[1::2]]


def test_the_data_are_checked_for_every_arm_and_once_for_agents(tmp_path, done):
    made = experiment(tmp_path)
    made.check()
    assert not done and not list(tmp_path.iterdir())
    made.begin()
    assert [call[0] for call in done] == ["train", "check_targets", "train", "train", "check_targets", "check_targets"]
    # The record is of what all runs share.
    assert [gin.query_parameter(f"{macro}/macro.value") for macro in ("AGENT", "ARM")] == ["", ""]
    assert (tmp_path / "config.gin").read_text() == gin.config_str()
    done.clear()
    made.begin()
    assert not done


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"AGENT": "nobody"}, "AGENT='nobody' is none of answer_from_memory"),
        ({}, "AGENT='a' is none of answer_from_memory"),
        ({"AGENT": "cd_memory", "TRAIN_RETRIVAL": "fixed"}, "did you mean TRAIN_RETRIEVAL?"),
        ({"AGENT": "cd_memory", "TRAIN_RETRIEVAL": "sometimes"}, "random, fixed, off"),
        ({"AGENT": "cd_memory", "T5Config.num_heads": 0}, "a whole number of at least 1"),
    ],
)
def test_a_wrong_arm_is_refused_before_anything_is_written(arm, words, tmp_path):
    with pytest.raises(RequestError) as error:
        experiment(tmp_path, {"baseline": {}, "a": arm}).check()
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_experiment_goes_on_with_its_bindings(tmp_path, done):
    experiment(tmp_path).begin()
    experiment(tmp_path, {"baseline": {}}, (5,), "TRAIN_STEPS = 2000", "ARMS = {'baseline': {}}").check()
    with pytest.raises(RequestError, match=r"config.gin: was begun with ANSWER_WEIGHT = 2.0, not 3.0; "):
        experiment(tmp_path, ARMS, (0,), "ANSWER_WEIGHT = 3.0").check()
    record = tmp_path / "config.gin"
    record.write_text("".join(line for line in record.open() if not line.startswith(NEWER)))
    experiment(tmp_path).check()  # As earlier versions left it.
    record.write_text("AGENTS = [\n")
    with pytest.raises(RequestError, match="is not what the demo has written; delete it"):
        experiment(tmp_path).check()


@pytest.mark.slow
def test_two_arms_of_one_agent_from_the_command_line(tmp_path, user_environment):
    bindings = runs.BINDINGS | {"TARGETS": "['babi_qa13_short']", "EVAL_PER_TASK": 4, "SOURCE_PER_TASK": 4}
    bindings |= {"TRAIN_STEPS": 4, "ARMS": {"fixed": ARMS["fixed"], "random": {"AGENT": "cd_memory"}}}
    given = runs.arguments("demo", tmp_path / "demo", "--seeds", "0", "1")
    given += [f"--gin.{name}={value}" for name, value in bindings.items()]
    process = runs.command(given, user_environment)
    assert (process.returncode, process.stderr) == (0, "")
    found = json.loads((tmp_path / "demo" / "results.json").read_text())["runs"]
    assert [(run["agent"], run["arm"], run["seed"]) for run in found] == [
        ("cd_memory", arm, seed) for arm in ("fixed", "random") for seed in (0, 1)
    ]
    assert "difference from fixed" in process.stdout
    assert "[random seed 1]" in process.stdout
    again = runs.command(given, user_environment)
    assert again.stdout.count("is done: 4 of 4 steps") == 4
