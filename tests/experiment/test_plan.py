"""The plan of an experiment: which runs there are, and what gin is told for each."""

import pytest

from cd_jax.errors import RequestError
from cd_jax.experiment import plan
from cd_jax.types import Arm, Run

FIXED = {"AGENT": "cd_memory", "TRAIN_RETRIEVAL": "fixed"}


def test_every_agent_is_an_arm_and_seeds_are_done_in_turn():
    runs = plan.plan("dir", ["baseline", "cd_memory"], [0, 3])
    assert [run.model_dir for run in runs] == [
        "dir/baseline-seed0", "dir/cd_memory-seed0", "dir/baseline-seed3", "dir/cd_memory-seed3"
    ]  # fmt: skip
    assert runs[0] == Run(Arm("baseline", {"AGENT": "baseline"}), 0, "dir/baseline-seed0")


def test_arms_take_the_place_of_agents():
    runs = plan.plan("dir", ["baseline"], [1], {"fixed": FIXED, "cd_memory": {"NUM_QUERIES": 3}})
    assert [run.model_dir for run in runs] == ["dir/fixed-seed1", "dir/cd_memory-seed1"]
    assert plan.statements(runs[0]) == [
        "AGENT = 'cd_memory'", "TRAIN_RETRIEVAL = 'fixed'", "SEED = 1", "ARM = 'fixed'"
    ]  # fmt: skip
    assert plan.statements(runs[1])[:2] == ["AGENT = 'cd_memory'", "NUM_QUERIES = 3"]


def test_references_are_written_as_gin_has_them():
    [run] = plan.plan("dir", [], [0], {"a": {"EpisodicMemory.index": "@ScannIndex", "x": {"y": ["@z"]}}})
    assert plan.statements(run)[1:3] == ["EpisodicMemory.index = @ScannIndex", "x = {'y': ['@z']}"]


@pytest.mark.parametrize(
    ("agents", "seeds", "arms", "words"),
    [
        ([], [0], {}, "AGENTS=[]"),
        (["baseline"], [], {}, "SEEDS=[]"),
        ([], [], {"fixed": FIXED}, "SEEDS=[]"),
        ([], [0], {"../fixed": FIXED}, "'../fixed' names no folder"),
        ([], [0], {"a": {"SEED": 3}}, "'a' binds SEED"),
        ([], [0], {"a": {"ARM": "b"}}, "'a' binds ARM"),
        ([], [0], {"a": {"EpisodicMemory.index": object}}, "'@DeviceIndex'"),
    ],
)
def test_what_is_no_plan_is_refused(agents, seeds, arms, words):
    with pytest.raises(RequestError) as error:
        plan.plan("dir", agents, seeds, arms)
    assert words in str(error.value)
