"""The metrics of the tasks: against counts by hand, and as SeqIO calls them."""

import collections
import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.tasks import metrics
from cd_jax.tasks.babi import format
from cd_jax.tasks.babi.archive import TASK_NAMES
from cd_jax.tasks.babi.worlds import generate
from cd_jax.tasks.babi.worlds.shifts import SHIFTS
from cd_jax.tasks.com2sense import pairs, reader
from cd_jax.types import Example
from cd_jax.verifier.answers import ExactMatch
from originals import BABI_DIR, COM2SENSE_DIR, needs_babi, needs_com2sense

ROWS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["", *"abcdef"]), st.sampled_from(["", "time", "social"])),
    min_size=1,
    max_size=16,
)


def by_hand(rows):
    """Standard accuracy, pairwise accuracy and rows without a complete pair, row against row."""
    pairs = [
        (i, j)
        for i, (_, one, _) in enumerate(rows)
        for j, (_, other, _) in enumerate(rows)
        if i < j and one == other != "" and sum(pair == one for _, pair, _ in rows) == 2
    ]
    right = [rows[i][0] and rows[j][0] for i, j in pairs]
    standard = sum(r for r, _, _ in rows) / len(rows)
    return standard, sum(right) / len(pairs) if pairs else None, len(rows) - len({i for pair in pairs for i in pair})


def assert_scores(scores, rows):
    standard, pairwise, unpaired = by_hand(rows)
    assert scores["accuracy"] == standard
    assert scores["n"] == len(rows)
    if pairwise is None:
        assert "pairwise_accuracy" not in scores and "unpaired" not in scores
    else:
        assert (scores["pairwise_accuracy"], scores["unpaired"]) == (pairwise, unpaired)


@given(ROWS)
def test_scores_against_brute_force(rows):
    targets = [metrics.Target("yes", pair, domain, "causal") for _, pair, domain in rows]
    scores = metrics.statement_scores(targets, [right for right, _, _ in rows])
    assert_scores(scores, rows)
    named = {domain for _, _, domain in rows} - {""}
    assert list(scores.get("by_domain", {})) == sorted(named)
    for name in named:
        assert_scores(scores["by_domain"][name], [row for row in rows if row[2] == name])
    assert_scores(scores["by_scenario"]["causal"], rows)


@given(ROWS)
def test_pairwise_is_at_most_standard_and_loses_at_most_twice_as_much(rows):
    scores = metrics.accuracy_scores([right for right, _, _ in rows], [pair for _, pair, _ in rows])
    if "pairwise_accuracy" in scores and not scores["unpaired"]:
        # Each wrong answer spoils one pair at most, and each spoilt pair has one wrong answer at least.
        assert 2 * scores["accuracy"] - 1 <= scores["pairwise_accuracy"] + 1e-9
        assert scores["pairwise_accuracy"] <= scores["accuracy"] + 1e-9


def test_a_row_without_its_partner_counts_for_standard_accuracy_only():
    scores = metrics.accuracy_scores([True, True, False, False], ["a", "a", "", "b"])
    assert scores == {"accuracy": 0.5, "n": 4, "pairwise_accuracy": 1.0, "unpaired": 2}


def test_a_pair_of_two_domains_is_in_neither():
    targets = [
        metrics.Target("yes", pair, domain) for pair, domain in [("a", "time"), ("a", "social"), *[("b", "time")] * 2]
    ]
    scores = metrics.statement_scores(targets, [True, True, False, True])
    assert scores["pairwise_accuracy"] == 0.5 and scores["unpaired"] == 0
    assert scores["by_domain"] == {
        "social": {"accuracy": 1.0, "n": 1},
        "time": {"accuracy": 2 / 3, "n": 3, "pairwise_accuracy": 0.0, "unpaired": 1},
    }
    assert "by_scenario" not in scores


def test_tasks_pass_at_95_percent():
    found = metrics.task_scores({"a": 950 / 1000, "b": 949 / 1000, "c": 19 / 20, "d": 0.0})
    assert found["tasks_at_95"] == 2
    assert found["mean_task_accuracy"] == pytest.approx((0.95 + 0.949 + 0.95) / 4)


def example(task, pair_id=""):
    return Example(f"{task}/test/0", task, "", "", "yes", pair_id=pair_id)


def test_tasks_of_a_mixture_count_alike_whatever_their_sizes():
    examples = [example("babi_qa2")] * 30 + [example("babi_qa1")] * 10
    scores = metrics.example_scores(examples, [True] * 30 + [False] * 10)
    assert scores == {
        "accuracy": 0.75,
        "n": 40,
        "by_task": {"babi_qa2": {"accuracy": 1.0, "n": 30}, "babi_qa1": {"accuracy": 0.0, "n": 10}},
        "mean_task_accuracy": 0.5,
        "tasks_at_95": 1,
    }
    assert metrics.example_scores(examples[:2], [True, False]) == {"accuracy": 0.5, "n": 2}


def test_pairs_of_two_tasks_are_not_mixed_up():
    examples = [example(task, "p") for task in ("one", "one", "two", "two")]
    scores = metrics.example_scores(examples, [True, True, True, False])
    assert (scores["pairwise_accuracy"], scores["unpaired"]) == (0.5, 0)


def test_postprocess():
    features = {"pair_id": b"p1", "domain": b"time", "scenario": "na\u00efve".encode(), "example_id": b"c2s/test/1"}
    target = metrics.postprocess("answer: yes", example=features, is_target=True)
    assert target == metrics.Target("yes", "p1", "time", "na\u00efve")
    assert metrics.postprocess("so it is. Answer: yes ", example=features, is_target=False) == "yes"
    assert metrics.postprocess("no idea", example={}) == ""
    assert metrics.postprocess(
        "answer: milk,football", example={"inputs": np.zeros(3)}, is_target=True
    ) == metrics.Target("milk,football")


def statements(split, shuffle_files=False, seed=None):
    del split, shuffle_files, seed
    rows = [("yes", "a", "time", "causal"), ("no", "a", "time", "causal"), ("yes", "b", "social", "causal")]
    keys = ("targets", "pair_id", "domain", "scenario")
    columns = dict(zip(keys, map(list, zip(*rows, strict=True)), strict=True))
    columns["targets"] = [f"answer: {answer}" for answer in columns["targets"]]
    return tf.data.Dataset.from_tensor_slices({"inputs": ["x"] * len(rows), **columns})


@pytest.fixture
def task():
    """Registers a task as the project's are, and forgets it."""
    vocabulary = seqio.ByteVocabulary()
    for name, metric_fns in (("c2s_metrics", metrics.com2sense_metrics), ("babi_metrics", metrics.babi_metrics)):
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(statements, splits=("test",)),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={key: seqio.Feature(vocabulary) for key in ("inputs", "targets")},
            postprocess_fn=metrics.postprocess,
            metric_fns=metric_fns,
        )
    yield vocabulary
    for name in ("c2s_metrics", "babi_metrics"):
        seqio.TaskRegistry.remove(name)


def evaluated(name, vocabulary, generations):
    evaluator = seqio.Evaluator(name, seqio.EncDecFeatureConverter(pack=False), "test")

    def predict(dataset, model_feature_shapes=None):
        del model_feature_shapes
        # As a decoder leaves it: the end of sequence, then padding.
        tokens = [[*vocabulary.encode(said), vocabulary.eos_id] for said in generations]
        return [(i, tokens[i] + [0] * (40 - len(tokens[i]))) for i, _ in dataset.as_numpy_iterator()]

    found, _ = evaluator.evaluate(
        compute_metrics=True, predict_fn=predict, score_fn=lambda dataset: [], predict_with_aux_fn=lambda dataset: []
    )
    return found.result()[name]


def test_seqio_evaluates(task):
    generations = ["warm, so answer: Yes.", "answer: no", "answer: no"]
    assert evaluated("babi_metrics", task, generations) == {"accuracy": pytest.approx(2 / 3)}
    found = evaluated("c2s_metrics", task, generations)
    assert found == {
        "accuracy": pytest.approx(2 / 3),
        "n": 3,
        "pairwise_accuracy": 1.0,
        "unpaired": 1,
        "by_domain/social/accuracy": 0.0,
        "by_domain/social/n": 1,
        "by_domain/time/accuracy": 1.0,
        "by_domain/time/n": 2,
        "by_domain/time/pairwise_accuracy": 1.0,
        "by_domain/time/unpaired": 0,
        "by_scenario/causal/accuracy": pytest.approx(2 / 3),
        "by_scenario/causal/n": 3,
        "by_scenario/causal/pairwise_accuracy": 1.0,
        "by_scenario/causal/unpaired": 1,
    }


@needs_com2sense
def test_original_statements_by_domain_and_scenario():
    examples = reader.read(COM2SENSE_DIR, "test", "com2sense")
    always_yes = [e.answer == "yes" for e in examples]
    scores = metrics.example_scores(examples, always_yes)
    assert (scores["n"], scores["accuracy"], scores["pairwise_accuracy"], scores["unpaired"]) == (782, 0.5, 0.0, 0)
    # The statements of one pair are of the domains physical and time, and of the scenarios comparison and "physical".
    assert {k: (v["n"], v.get("unpaired")) for k, v in scores["by_domain"].items()} == {
        "physical": (269, 1),
        "social": (258, 0),
        "time": (255, 1),
    }
    assert {k: (v["n"], v.get("unpaired")) for k, v in scores["by_scenario"].items()} == {
        "causal": (394, 0),
        "comparison": (387, 1),
        "physical": (1, None),
    }
    for group in scores["by_domain"].values():
        assert group["pairwise_accuracy"] == 0.0
        assert group["accuracy"] == pytest.approx(0.5, abs=0.01)


# No two answers of a task are the same to the metrics


def assert_told_apart(found):
    """Each of the answers is right where it is expected, and only there; and wrong is who says nothing."""
    for one, other in itertools.product({*found, ""}, found):
        assert ExactMatch()([one], [other]) == [one == other], (one, other)


def released_answers(number):
    """The distinct answers of a task in all files of the archive."""
    return {
        question.answer
        for path in BABI_DIR.glob(f"*/qa{number}_*.txt")
        for story in format.parse(path.read_bytes().split(b"\n"), path.name)
        for question in story.questions()
    }


@needs_babi
@pytest.mark.parametrize("number", list(TASK_NAMES))
def test_released_answers_of_babi(number):
    found = released_answers(number)
    counts = {5: 7, 6: 2, 7: 4, 8: 14, 9: 2, 10: 3, 15: 4, 16: 4, 17: 2, 18: 2, 19: 12, 20: 7}
    assert len(found) == counts.get(number, 6)
    assert_told_apart(found)


@needs_babi
def test_orders_of_lists_are_answers_of_their_own():
    for number in (8, 19):
        lists = collections.Counter(frozenset(answer.split(",")) for answer in released_answers(number))
        assert max(lists.values()) > 1


@pytest.mark.parametrize("number", list(TASK_NAMES))
def test_answers_of_the_embedded_worlds(number):
    for shift in (None, "names", "places", "objects"):
        setting = SHIFTS[shift] if shift else generate.RELEASED
        stories = itertools.islice(generate.stories(number, 0, setting), 40)
        assert_told_apart({question.answer for story in stories for question in story.questions()})


def test_answers_of_com2sense():
    assert_told_apart({example.answer for example in pairs.read("test", "pairs")})
    assert_told_apart(set(reader.ANSWERS.values()))
