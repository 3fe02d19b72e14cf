"""Worlds of animals and their kinds (tasks 15 and 16): the text alone, read anew here, decides every answer."""

import itertools
import re

import pytest

from cd_jax.tasks.babi.worlds import WORLDS, generate
from cd_jax.tasks.babi.worlds.world import Setting
from stories import assert_of_templates

NUMBERS = (15, 16)
SETTINGS = {
    "released": Setting(),
    "novel": Setting(novel=("person",)),
    "distractors": Setting(distractors=8),
    "long": Setting(length=4, novel=("person",)),
    "any length": Setting(statements=range(3, 33), questions=3),
    "more questions": Setting(questions=12),
}
SINGULAR = {"mice": "mouse", "wolves": "wolf", "cats": "cat", "sheep": "sheep"}


def told(number, setting=generate.RELEASED, count=50, seed=3):
    return list(itertools.islice(generate.stories(number, seed, setting), count))


def kinds(statements):
    """In the order in which the animals are told of."""
    found = (re.fullmatch(r"(\w+) is a (\w+)\.", statement) for statement in statements)
    return dict(match.groups() for match in found if match)


def deduction(statements, question):
    name = re.fullmatch(r"What is (\w+) afraid of\?", question)[1]
    kind = kinds(statements)[name.capitalize()]
    fears = dict(re.findall(r"(\w+) are afraid of (\w+)\.", " ".join(statements)))
    return next(SINGULAR[feared] for fearful, feared in fears.items() if SINGULAR.get(fearful.lower()) == kind)


def induction(statements, question):
    name = re.fullmatch(r"What color is (\w+)\?", question)[1]
    kind_of = kinds(statements)
    colours = dict(re.findall(r"(\w+) is (?!a )(\w+)\.", " ".join(statements)))
    assert name not in colours
    return [colours[other] for other, kind in kind_of.items() if kind == kind_of[name] and other in colours][-1]


BY_TEXT = {15: deduction, 16: induction}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_text_and_supporting_facts_alone_give_the_answer(number, setting):
    for story in told(number, setting):
        for question, said in story.asked():
            assert len(question.support) == number - 13
            for statements in (said.values(), [said[i] for i in question.support]):
                assert BY_TEXT[number](list(statements), question.text) == question.answer


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_templates_make_all_that_is_said(number, setting):
    assert_of_templates(number, setting, told(number, setting))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("statements", [3, 4, 9, 32])
def test_stories_are_as_long_as_asked(number, statements):
    for story in told(number, Setting(statements=range(statements, statements + 1), questions=2), 20):
        assert [isinstance(line, str) for line in story.lines] == [True] * statements + [False] * 2


@pytest.mark.parametrize("number", NUMBERS)
def test_distractors_are_about_other_kinds(number):
    world = WORLDS[number]
    for slot, others in world.bystanders.items():
        assert not set(others) & {*world.words[slot], *world.novel.get(slot, ())}
    foreign = {word.lower() for slot in world.bystanders for word in world.bystanders[slot]}
    for story in told(number, Setting(distractors=6)):
        tokens = [set(re.findall(r"\w+", statement.lower())) for statement in story.statements()]
        assert sum(bool(words & foreign) for words in tokens) == 6


@pytest.mark.parametrize("number", NUMBERS)
def test_released_stories_have_the_released_names_alone(number):
    released = {15: {"Gertrude", "Winona", "Emily", "Jessica"}, 16: {"Lily", "Bernhard", "Brian", "Julius", "Greg"}}
    for story in told(number):
        assert set(kinds(story.statements())) == released[number]


def test_what_a_kind_is_afraid_of_is_told_once_and_before_its_animals():
    for story in told(15):
        fearful = []
        for statement in story.statements():
            if match := re.fullmatch(r"(\w+) are afraid of (\w+)\.", statement):
                fearful.append(SINGULAR[match[1].lower()])
                assert SINGULAR[match[2]] != fearful[-1]
            else:
                assert set(kinds([statement]).values()) <= set(fearful)
        assert sorted(fearful) == sorted(SINGULAR.values())


def test_one_or_at_least_three_others_of_the_kind_have_a_colour():
    """As in all of the released stories."""
    counts = set()
    for story in told(16, count=1000):
        kind_of = kinds(story.statements())
        [question] = story.questions()
        name = question.text.split()[-1][:-1]
        counts.add(sum(kind == kind_of[name] for kind in kind_of.values()) - 1)
    assert counts == {1, 3, 4}


def test_two_colours_of_a_kind_differ_only_if_another_was_told_of_between_them():
    differ = 0
    for story in told(16, count=1000):
        kind_of, last = kinds(story.statements()), {}
        for statement in story.statements():
            name, said = re.fullmatch(r"(\w+) is (.+)\.", statement).groups()
            if said.startswith("a "):
                differ += last.pop(kind_of[name], None) is not None
            else:
                assert last.setdefault(kind_of[name], said) == said
    assert differ > 0


@pytest.mark.parametrize("number", NUMBERS)
def test_the_same_seed_tells_the_same(number):
    assert told(number, seed=1) == told(number, seed=1) != told(number, seed=2)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_split_yields_where_questions_are_held_out(number):
    for split in ("train", "validation", "test"):
        stories = itertools.islice(generate.split_stories(number, split, 0, Setting(hold_out=True)), 20)
        questions = [question for story in stories for question in story.questions()]
        assert {generate.held_out(question) for question in questions} == {split == "test"}
