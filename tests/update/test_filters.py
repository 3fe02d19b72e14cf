"""Filters and selection: against updates of the rule oracle, spoilt in known ways."""

import dataclasses
import itertools

import corruptions
import hypothesis
import pytest
from hypothesis import strategies as st

from cd_jax.tasks import Catalogue
from cd_jax.types import Example, Update
from cd_jax.update import selection
from cd_jax.update.filters import faithful, words
from cd_jax.update.filters.filter import clean
from originals import BABI_DIR, needs_babi

STORY = "Mary went to the garden. John took the milk there. John went to the office. Mary moved to the hall."
WHERE_IS = Example("e", "babi_qa2", STORY, "Where is the milk?", "office", STORY.split(". ")[1:3])
SENSE = Example("s", "com2sense", "A stone floats on water.", "Does this make sense?", "no", contrast="A stone sinks.")
FILTERS = {
    "wrong answer": words.ContradictsLabel(),
    "answer alone": words.AnswerAlone(),
    "babble": words.TooLong(60),
    "repeated": words.NearDuplicate(),
    "false fact": faithful.Unfaithful(),
    "too few facts": faithful.Unfaithful(),
}


def update(text, sample=0, example=WHERE_IS, **fields):
    return Update(example.example_id, example.task, text, "t", "", sample, 0, **fields)


class TestContradictsLabel:
    @pytest.mark.parametrize(
        ("text", "is_rejected"),
        [
            ("because John has it. the answer is office.", False),
            ("because John has it. The right answer is the office, since he went there.", False),
            ("The answer must be: in the office because he is there", False),
            ("it is office and not hall.", False),
            ("because John has it. the answer is garden.", True),
            ("It's the hall and not the office.", True),
            ("so. answer: hall", True),
            ("so. answer: Office.", False),
            ("The answer is not office.", True),
            ("The answer is not hall.", False),
            # No answer at all.
            ("it is John who took the milk and then went to the office.", False),
            ("John took it to the office.", False),
        ],
    )
    def test_what_the_update_says_itself(self, text, is_rejected):
        assert bool(words.ContradictsLabel().reason(WHERE_IS, update(text), [])) == is_rejected

    @pytest.mark.parametrize(
        ("text", "is_rejected"),
        [
            ("it makes no sense, unlike: A stone sinks.", False),
            ("The statement does not make sense because stones are heavy.", False),
            ("It makes sense, as wood floats.", True),
            ("This makes sense.", True),
            ("because it would make sense to say: A stone sinks.", False),
        ],
    )
    def test_of_sense(self, text, is_rejected):
        assert bool(words.ContradictsLabel().reason(SENSE, update(text, example=SENSE), [])) == is_rejected


@pytest.mark.parametrize(
    ("text", "is_rejected"),
    [
        ("because the answer is office.", True),
        ("The milk is in the office.", True),
        ("we know that it is office and nothing else.", True),
        ("because John went there with it.", False),
        ("John went to the office.", False),
    ],
)
def test_the_answer_alone(text, is_rejected):
    assert bool(words.AnswerAlone().reason(WHERE_IS, update(text), [])) == is_rejected


def test_a_statement_that_is_said_again_is_no_reason():
    said = update("The answer is no because it makes no sense.", example=SENSE)
    assert words.AnswerAlone().reason(SENSE, said, [])
    assert not words.AnswerAlone().reason(SENSE, update("Stones are heavy.", example=SENSE), [])


def test_what_is_improbable_or_far_from_the_reasons():
    improbable = words.Improbable(-1.0)
    assert "-1.50" in improbable.reason(WHERE_IS, update("x", log_prob=-1.5), [])
    assert not improbable.reason(WHERE_IS, update("x", log_prob=-1.0), [])
    assert not improbable.reason(WHERE_IS, update("x"), [])
    low = words.LowScore(least=0.4)
    assert not low.reason(WHERE_IS, update("John took the milk there. John went to the office."), [])
    assert "chrf" in low.reason(WHERE_IS, update("zebras like zoos"), [])
    assert not low.reason(dataclasses.replace(WHERE_IS, supporting_facts=()), update("zebras like zoos"), [])


class TestFaithful:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("because John took the milk there. John went to the office.", ""),
            ("John took the milk there and John went to the office", ""),
            ("First, john took the milk there; then JOHN WENT TO THE OFFICE! Clear.", ""),
            ("because John went to the office.", "does not give the answer"),
            ("because John took the milk there. Mary moved to the hall.", "does not give the answer"),
            (
                "because John took the milk there. John went to the kitchen.",
                "'John went to the kitchen.' does not stand",
            ),
            (
                "because Bill took the milk there. John went to the office.",
                "'Bill took the milk there.' does not stand",
            ),
            ("because he has it with him.", "cites nothing"),
        ],
    )
    def test_what_it_cites(self, text, said):
        found = faithful.Unfaithful().reason(WHERE_IS, update(text), [])
        assert said in found if said else not found

    def test_facts_that_say_something_else(self):
        contradicts = faithful.ContradictsFacts()
        text = "John took the milk there. John went to the kitchen."
        assert "its facts say 'kitchen'" in contradicts.reason(WHERE_IS, update(text), [])
        assert not contradicts.reason(WHERE_IS, update("John took the milk there. John went to the office."), [])
        assert not contradicts.reason(WHERE_IS, update("he has it"), [])

    @pytest.mark.parametrize("one", [faithful.Unfaithful(), faithful.ContradictsFacts()], ids=lambda one: one.name)
    def test_other_tasks_have_no_reasoner(self, one):
        assert not one.reason(SENSE, update("Stones swim.", example=SENSE), [])
        assert faithful.task_number(dataclasses.replace(SENSE, task="babi_qa21")) is None
        assert faithful.task_number(dataclasses.replace(SENSE, task="babi_qa12_names")) == 12


def spoilt(babi_dir=None, per_task=30):
    """Of every task; examples, updates, and the way of each."""
    tasks = Catalogue(babi_dir=babi_dir)
    examples = [one for n in range(1, 21) for one in tasks.examples(f"babi_qa{n}", "train")[:per_task]]
    return examples, *corruptions.corrupt(examples, corruptions.updates_of(examples, 0), 0.3, 0)


def check_found(examples, updates, ways):
    """Precision and recall of each filter at what it is for.

    No sound update is rejected; `Unfaithful` is for several ways, and rejects what says the answer alone, too.
    """
    of_id = {example.example_id: example for example in examples}
    way_of = {(one.example_id, one.sample): way for one, way in zip(updates, ways, strict=True)}
    for wanted, one in FILTERS.items():
        rejected = [way_of[found.example_id, found.sample] for found in clean(of_id, updates, [one]).rejected]
        assert rejected.count(wanted) >= 0.98 * ways.count(wanted) > 0 and "" not in rejected, wanted
        if one.name not in ("unfaithful", "answer alone"):
            assert set(rejected) == {wanted}
    everything = clean(of_id, updates, list(FILTERS.values()))
    left = [way_of[one.example_id, one.sample] for one in everything.kept]
    assert sum(map(bool, left)) <= 0.01 * sum(map(bool, ways))


def test_what_was_spoilt_is_found():
    check_found(*spoilt())


@needs_babi
def test_what_was_spoilt_is_found_in_the_released_stories():
    check_found(*spoilt(str(BABI_DIR)))


TEXTS = st.sampled_from(["a b c d", "a b c e", "the answer is office", "x" * 9, "John went to the office.", ""])
UPDATES = st.lists(TEXTS, max_size=8).map(lambda texts: [update(text, i) for i, text in enumerate(texts)])


@hypothesis.given(UPDATES, st.lists(st.sampled_from(list(FILTERS.values())), max_size=4))
def test_cleaning_loses_nothing_and_is_done_once(updates, filters):
    found = clean({"e": WHERE_IS}, updates, filters)
    back = [dataclasses.replace(one, reason="") for one in found.rejected]
    assert sorted([*found.kept, *back], key=lambda one: one.sample) == updates
    assert found.kept == sorted(found.kept, key=lambda one: one.sample)
    assert all(one.reason.split(": ")[0] in {f.name for f in filters} for one in found.rejected)
    assert clean({"e": WHERE_IS}, found.kept, filters) == (found.kept, [])


class TestSelection:
    SAID = ("a b c", "a b d", "John took the milk there. John went to the office.", "x y z")
    GIVEN = [
        update(text, i, log_prob=p) for i, (text, p) in enumerate(zip(SAID, (-2.0, None, -1.0, -3.0), strict=True))
    ]

    def test_all_of_them_as_in_the_paper(self):
        assert selection.uniform(WHERE_IS, self.GIVEN) == self.GIVEN

    @pytest.mark.parametrize(
        ("by", "best"),
        [("log_prob", [0, 2]), ("reference", [0, 2]), (lambda example, updates: [1, 5, 0, 5], [1, 3])],
        ids=["log_prob", "reference", "own"],
    )
    def test_the_best(self, by, best):
        chosen = selection.BestOfK(2, by)(WHERE_IS, self.GIVEN)
        assert [one.sample for one in chosen][-1] == best[-1]
        if by != "reference":
            assert [one.sample for one in chosen] == best

    @hypothesis.given(UPDATES, st.integers(1, 4))
    def test_the_most_different_ones_against_all_choices(self, updates, number):
        """Choosing the farthest each time has at least half the best smallest distance (Gonzalez 1985)."""
        chosen = selection.Diverse(number)(WHERE_IS, updates)
        assert len(chosen) == min(number, len(updates))
        assert [one.sample for one in chosen] == sorted(one.sample for one in chosen)

        def spread(group):
            texts = [frozenset(one.update.lower().split()) for one in group]
            return min((selection._distance(a, b) for a, b in itertools.combinations(texts, 2)), default=1.0)

        best = max((spread(group) for group in itertools.combinations(updates, len(chosen))), default=1.0)
        assert spread(chosen) >= best / 2 - 1e-9
