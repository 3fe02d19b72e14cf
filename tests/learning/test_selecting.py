"""Selection in rounds: by information gain, kept with the run."""

import json

import numpy as np
import pytest
import runs

from cd_jax.learning.selecting import MostInformative, select
from cd_jax.types import Example, Update
from cd_jax.update.selection import BestOfK

EXAMPLES = [Example(name, "t", "x", "y", "z") for name in "ab"]
UPDATES = [
    Update(name, "t", f"{name}{sample}{number}", "t", "", 3 * number + sample, 0, round=number)
    for number in range(2)
    for name in "ab"
    for sample in range(3)
]


def gains(pairs):
    """The more, the later in the alphabet and the higher the sample; of the second example the other way round."""
    return np.array([(-1 if one.example_id == "b" else 1) * int(text[1]) for one, text in pairs], np.float32)


def test_the_most_informative_of_each_example_and_round(tmp_path):
    chosen = select(MostInformative(2), EXAMPLES, UPDATES, gains, tmp_path, 1)
    assert [one.update for one in chosen] == ["a10", "a20", "b00", "b10", "a11", "a21", "b01", "b11"]
    # A run that is taken up has other parameters, and chooses the same.
    again = select(MostInformative(2), EXAMPLES, UPDATES, lambda pairs: 1 / 0, tmp_path, 1)
    assert again == chosen
    other = select(MostInformative(2), EXAMPLES, UPDATES, lambda pairs: -gains(pairs), tmp_path, 2)
    assert [one.update for one in other][:2] == ["a00", "a10"]


def test_all_of_them_and_those_of_another_way(tmp_path):
    assert select(None, EXAMPLES, UPDATES, gains, tmp_path, 0) == UPDATES
    by = BestOfK(1, lambda example, group: [len(one.update) for one in group])
    assert [one.update for one in select(by, EXAMPLES, UPDATES, gains, tmp_path, 0)] == ["a00", "b00", "a01", "b01"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["cd_finetune", "cd_memory"])
def test_a_run_learns_what_was_chosen(tmp_path, distilled, agent, user_environment):
    given = {"AGENT": f"'{agent}'", "SELECTION": "@MostInformative()", "MostInformative.number": 1}
    arguments = runs.train_arguments(tmp_path, distilled, **{k.replace(".", "__"): v for k, v in given.items()})
    done = runs.command(arguments, user_environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "gain-round0.jsonl").read_text().splitlines()]
    assert len(lines) == 15 and len({line["gain"] for line in lines}) > 5
    if agent == "cd_memory":
        entries = [json.loads(line) for line in (tmp_path / "memory" / "entries.jsonl").read_text().splitlines()]
        best = {}
        for line in lines:
            best[line["example_id"]] = max(best.get(line["example_id"], line), line, key=lambda one: one["gain"])
        assert {(one["example_id"], one["sample"]) for one in entries} == {(k, v["sample"]) for k, v in best.items()}
