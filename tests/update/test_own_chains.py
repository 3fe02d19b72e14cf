"""The update policy whose updates are the solver's own chains."""

import json

import pytest
import runs

from cd_jax.learning import extending
from cd_jax.rundir import updates as store
from cd_jax.types import Attempt, Example, Update
from cd_jax.update.policies.own_chains import OwnChains
from cd_jax.update.policy import Asked

EXAMPLE = Example("t/train/0", "t", "Mary went to the hall.", "Where is Mary?", "hall")


def attempts(*said, right="hall"):
    return [
        Attempt(EXAMPLE, text, text.rpartition("answer: ")[2], text.endswith(f"answer: {right}"), 0.75, [], sample=i)
        for i, text in enumerate(said)
    ]


SAID = attempts(
    "b. answer: hall", "a. answer: hall", "c. answer: attic", "a. answer: hall", "answer: hall", "d. answer: hall"
)


def written(policy, said=SAID, known=(), number=1):
    [found] = policy.write([Asked(EXAMPLE, said, known)], number, "")
    return found


def test_chains_of_right_answers_the_commonest_first():
    found = written(OwnChains())
    assert [one.update for one in found] == ["a.", "b.", "d."]
    assert [(one.sample, one.round, one.teacher, one.score) for one in found] == [
        (i, 1, "own_chains", 0.75) for i in range(3)
    ]
    assert [one.update for one in written(OwnChains(2))] == ["a.", "b."]


def test_no_right_answer_no_update():
    assert written(OwnChains(), attempts("c. answer: attic", "nothing")) == [] == written(OwnChains(), [])


def test_what_is_known_is_not_written_again():
    oracle = Update(EXAMPLE.example_id, "t", "a.", "oracle", "why", 4, 0)
    first = written(OwnChains(2), known=[oracle])
    assert [(one.update, one.sample) for one in first] == [("b.", 5), ("d.", 6)]
    # Where the first alone was put on disk, the other follows, as it would have been.
    assert written(OwnChains(2), known=[oracle, first[0]]) == first[1:]
    assert written(OwnChains(2), known=[oracle, *first]) == []


def test_on_disk_and_taken_up_again(tmp_path):
    path, by_id = tmp_path / store.NAME, {EXAMPLE.example_id: SAID}
    whole = extending.extend(path, OwnChains(), [EXAMPLE], by_id, 1)
    assert [one.update for one in whole] == ["a.", "b.", "d."] and store.read(path) == whole
    path.write_text(path.read_text().partition("\n")[0] + "\n")
    assert extending.extend(path, OwnChains(), [EXAMPLE], by_id, 1) == whole


@pytest.mark.slow
def test_two_rounds_of_an_agent(tmp_path, distilled, user_environment):
    given = runs.train_arguments(
        tmp_path, distilled, AGENT="'own_chains'", ROUNDS=2, Rounds__samples=4, TRAIN_STEPS=240, EVAL_PERIOD=60,
        Rounds__temperature=0.5,
    )  # fmt: skip
    done = runs.command(given, user_environment)
    assert done.returncode == 0, done.stderr
    [path] = (tmp_path / "inference").glob("*_train_round1-*.jsonl")
    made = [json.loads(line) for line in path.read_text().splitlines()]
    said = {(one["example_id"], one["generation"].rpartition("answer:")[0].strip()) for one in made if one["correct"]}
    fresh = [one for one in store.read(tmp_path / store.NAME) if one.round == 1] if said else []
    assert {(one.example_id, one.update) for one in fresh} <= said
