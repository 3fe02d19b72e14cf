"""An agent brought from outside: lesson form, memory value, update policy and loss term of a module, and a gin file."""

import json
import os
import subprocess
import sys

import pytest
import runs

THINGS = """
import dataclasses
from typing import ClassVar

import gin
import jax.numpy as jnp

from cd_jax.feed import formats
from cd_jax.memory.entries import Entry
from cd_jax.types import Lesson, Segment, Update


@gin.configurable
def answer_first(example, updates, attempts, answer_weight):
    said = updates[0].update if updates else "nobody says why"
    return [Lesson((Segment(f"{example.answer}!", 0.5), Segment(said), Segment(formats.answer(example.answer))), said)]


@gin.configurable
def answer_value(example, updates):
    said = f"it is {example.answer}"
    return [Entry(example.example_id, example.prompt, said, family=example.family, task=example.task)]


@gin.configurable
class Sayer:
    name, seed, wanted = "sayer", 0, 1

    def write(self, asked, number, directory):
        for one in asked:
            given = (one.example.example_id, one.example.task, f"round {number}.", self.name, "", number, 0)
            yield [Update(*given, round=number)]

    def odd(self):
        return ""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Nearness:
    name: ClassVar[str] = "nearness"
    weight: float = 0.25

    def __call__(self, reading, key):
        return (reading.contexts - reading.bound.pool(reading.batch["positive"])).mean() ** 2
"""
AGENT = """
Agent.name = %AGENT
Agent.lesson = @answer_first
Agent.value = {value}
Agent.update = @Sayer
Agent.verifier = @TokenF1
Agent.terms = [@Nearness()]
Agent.proposal = @DeterministicIterator
Agent.rounds = @Rounds()
"""


@pytest.fixture
def there(tmp_path):
    (tmp_path / "my_things.py").write_text(THINGS)
    (tmp_path / "agents").mkdir()
    return tmp_path


def command(there, *given):
    # In a folder of its own: an agent is looked up where one stands.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-m", "cd_jax", *given],
        cwd=there,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("value", ["@answer_value", pytest.param("None", marks=pytest.mark.slow)])
def test_an_agent_of_ones_own(there, value):
    (there / "agents" / "mine.gin").write_text(AGENT.format(value=value))
    distilled = command(there, *runs.arguments("distill", there / "d", SOURCE=f"'{runs.SOURCE}'"))
    assert distilled.returncode == 0, distilled.stderr
    theirs = ["--module_import=my_things", "--gin.AGENT='mine'", "--gin.ROUNDS=2", "--gin.TRAIN_STEPS=8"]
    theirs += ["--gin.Rounds.examples=3", "--gin.Rounds.samples=2"]
    trained = command(there, *runs.train_arguments(there / "run", there / "d"), *theirs)
    assert trained.returncode == 0, trained.stderr
    lines = [json.loads(line) for line in (there / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("nearness_loss" in line for line in lines if "loss" in line)
    written = [json.loads(line) for line in (there / "run" / "updates.jsonl").read_text().splitlines()]
    assert [update["update"] for update in written] == ["round 1."] * 3
    if value != "None":
        entries = (there / "run" / "memory" / "entries.jsonl").read_text()
        assert entries.count('"it is ') == 5
    evaluated = command(
        there, *runs.arguments("eval", there / "run", EVAL_PER_TASK=5, SOURCE_PER_TASK=5), "--module_import=my_things"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert [run["round"] for run in json.loads((there / "run" / "results.json").read_text())["runs"]] == [0, 1]


def test_an_agent_that_is_none_is_refused_with_those_that_are(there):
    said = command(there, *runs.train_arguments(there / "run", there / "d", AGENT="'mien'"))
    assert said.returncode == 2
    assert "AGENT='mien' is none of" in said.stderr and "cd_memory" in said.stderr
