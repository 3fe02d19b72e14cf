"""What `cd_jax eval` and `infer` make of attempts: the summary, its printout and the submission file."""

import json

import pytest

from cd_jax.errors import RequestError
from cd_jax.learning import evaluation
from cd_jax.rundir import files, results
from cd_jax.tasks.com2sense import reader, submission
from cd_jax.types import Attempt, Example
from originals import COM2SENSE_DIR, needs_com2sense


def attempt(task, number, correct, prediction="yes", split="test", **features):
    example = Example(f"{task}/{split}/{number}", task, "A statement.", "", "", **features)
    return Attempt(example, f"answer: {prediction}", prediction, correct, float(correct), [])


def statement(number, correct, pair_id, domain, scenario="causal"):
    return attempt("com2sense", number, correct, pair_id=pair_id, domain=domain, scenario=scenario)


def test_summary_of_a_plain_task_has_no_new_keys():
    entry = evaluation.summary("babi_qa1", [attempt("babi_qa1", i, i < 3) for i in range(4)])
    assert entry == {"task": "babi_qa1", "accuracy": 0.75, "n": 4}
    assert evaluation.printed(entry) == "babi_qa1: accuracy 0.750 (n=4)"


def test_summary_of_statements():
    rows = [
        (True, "a", "time"),
        (True, "a", "time"),
        (True, "b", "social"),
        (False, "b", "social"),
        (False, "", "time"),
    ]
    entry = evaluation.summary("com2sense", [statement(i, *row) for i, row in enumerate(rows)])
    assert entry == {
        "task": "com2sense",
        "accuracy": 0.6,
        "n": 5,
        "pairwise_accuracy": 0.5,
        "unpaired": 1,
        "by_domain": {
            "social": {"accuracy": 0.5, "n": 2, "pairwise_accuracy": 0.0, "unpaired": 0},
            "time": {"accuracy": 2 / 3, "n": 3, "pairwise_accuracy": 1.0, "unpaired": 1},
        },
        "by_scenario": {"causal": {"accuracy": 0.6, "n": 5, "pairwise_accuracy": 0.5, "unpaired": 1}},
    }
    assert evaluation.printed(entry).split("\n") == [
        "com2sense: accuracy 0.600, pairwise 0.500 (n=5); 1 of them without their pair, for the first figure only",
        "  by domain: social accuracy 0.500, pairwise 0.000 (n=2); time accuracy 0.667, pairwise 1.000 (n=3)",
        "  by scenario: causal accuracy 0.600, pairwise 0.500 (n=5)",
    ]


def test_summary_of_a_mixture():
    attempts = [attempt(f"babi_qa{1 + i % 2}", i, i % 2 == 0 or i == 1) for i in range(40)]
    entry = evaluation.summary("babi_all", attempts)
    assert entry["by_task"] == {"babi_qa1": {"accuracy": 1.0, "n": 20}, "babi_qa2": {"accuracy": 0.05, "n": 20}}
    assert (entry["accuracy"], entry["n"], entry["tasks_at_95"]) == (0.525, 40, 1)
    assert entry["mean_task_accuracy"] == pytest.approx(0.525)
    assert evaluation.printed(entry).split("\n") == [
        "babi_all: accuracy 0.525 (n=40)",
        "  mean of 2 tasks 0.525, at least 0.95 on 1",
    ]


def test_results_take_every_summary(tmp_path):
    entries = [
        evaluation.summary("com2sense", [statement(i, True, "a", "time") for i in range(2)]),
        evaluation.summary("babi_all", [attempt(f"babi_qa{i}", i, True) for i in range(2)]),
    ]
    run = {"agent": "baseline", "seed": 0, "source": entries[0], "targets": entries}
    files.write_json(tmp_path / "results.json", {"meta": {}, "runs": [run]})
    assert results.read_results(tmp_path)["runs"][0]["targets"] == entries


def test_the_unlabelled_split_is_not_scored(tmp_path):
    with pytest.raises(RequestError, match=r"'unlabelled' has no answers to score; decode it with `cd_jax infer`"):
        evaluation.evaluate(str(tmp_path), "com2sense", [], split="unlabelled")


def test_submission_file(tmp_path):
    said = {"a1": "yes", "b2": " No.", "c3": "", "d4": "yes, no", "e5": "YES"}
    attempts = [attempt("com2sense", key, False, text, "unlabelled") for key, text in said.items()]
    line = evaluation.write_submission(tmp_path / "inference" / "com2sense_unlabelled-12.jsonl", attempts)
    path = tmp_path / "inference" / "com2sense_unlabelled-12.submission.json"
    assert json.loads(path.read_text()) == [
        {"id": "a1", "label": "True"},
        {"id": "b2", "label": "False"},
        {"id": "c3", "label": "False"},
        {"id": "d4", "label": "False"},
        {"id": "e5", "label": "True"},
    ]
    assert line == f"5 labels in {path} (2 generations said neither yes nor no, which is labelled False)"


@needs_com2sense
def test_a_submission_has_the_form_of_the_release():
    """The right answers of dev.json, handed in, are the labels of dev.json."""
    examples = reader.read(COM2SENSE_DIR, "test", "com2sense")
    rows, unanswered = submission.submission(examples, [example.answer for example in examples])
    original = json.loads((COM2SENSE_DIR / "dev.json").read_text())
    assert unanswered == 0
    assert {(row["id"], row["label"]) for row in rows} == {(row["id"], row["label"]) for row in original}


@needs_com2sense
def test_a_submission_has_a_label_for_each_statement_in_the_order_of_the_file():
    examples = reader.read(COM2SENSE_DIR, "unlabelled", "com2sense")
    rows, unanswered = submission.submission(examples, ["yes", "maybe"] * (len(examples) // 2))
    assert [row["id"] for row in rows] == [row["id"] for row in json.loads((COM2SENSE_DIR / "test.json").read_text())]
    assert {row["label"] for row in rows} == {"True", "False"}
    assert unanswered == 2779
