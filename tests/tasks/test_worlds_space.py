"""Worlds of places and shapes (tasks 4, 17 and 19): the text alone, read anew here, decides every answer."""

import itertools
import re

import pytest

from cd_jax.tasks.babi.worlds import WORLDS, generate
from cd_jax.tasks.babi.worlds.grammar import pattern
from cd_jax.tasks.babi.worlds.world import Setting, words_of

NUMBERS = (4, 17, 19)
STEPS = {
    **{"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)},
    **{"above": (0, 1), "below": (0, -1), "to the right of": (1, 0), "to the left of": (-1, 0)},
}
WAYS = "|".join(STEPS)
SAID = re.compile(f"The (.+) is ({WAYS})(?: of)? the (.+)[.]")
SETTINGS = {
    "released": Setting(),
    "novel": Setting(novel=("place", "object")),
    "distractors": Setting(distractors=6),
    "long": Setting(length=4),
    "any length": Setting(statements=range(1, 9), questions=3),
    "more questions": Setting(questions=11),
    "held out": Setting(hold_out=True),
}


def told(number, setting=generate.RELEASED, count=100, seed=3):
    return list(itertools.islice(generate.stories(number, seed, setting), count))


def facts(statements):
    """The steps from one name to another, both ways, of all that was said."""
    for statement in statements:
        one, way, other = SAID.fullmatch(statement).groups()
        right, up = STEPS[way]
        yield other, (right, up), one
        yield one, (-right, -up), other


def positions(statements, start):
    """Where everything connected is from the start, by as many equal steps as it takes."""
    known, steps = {start: (0, 0)}, list(facts(statements))
    for _ in steps:
        for one, (right, up), other in steps:
            if one in known:
                known.setdefault(other, (known[one][0] + right, known[one][1] + up))
    return known


def beside(statements, asked):
    if match := re.fullmatch(rf"What is ({WAYS}) of the (.+)[?]", asked):
        step, place = STEPS[match[1]], match[2]
    else:
        place, way = re.fullmatch(rf"What is the (.+) ({WAYS}) of[?]", asked).groups()
        step = tuple(-part for part in STEPS[way])
    [answer] = {other for one, towards, other in facts(statements) if (one, towards) == (place, step)}
    return answer


def placed(statements, asked):
    one, way, other = re.fullmatch(rf"Is the (.+) ({WAYS}) the (.+)[?]", asked).groups()
    (right, up), (x, y) = STEPS[way], positions(statements, other)[one]
    return "yes" if right * x + up * y > 0 else "no"


def path(statements, asked):
    start, goal = re.fullmatch("How do you go from the (.+) to the (.+)[?]", asked).groups()
    letters = {step: way[0] for way, step in list(STEPS.items())[:4]}
    walks, steps = [((start,), "")], set(facts(statements))
    while not (found := {way[1:] for names, way in walks if names[-1] == goal}):
        walks = [
            ((*names, other), f"{way},{letters[step]}")
            for names, way in walks
            for one, step, other in steps
            if one == names[-1] and other not in names
        ]
    [answer] = found
    return answer


SOLVE = {4: beside, 17: placed, 19: path}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("number", NUMBERS)
def test_text_and_supporting_facts_alone_give_the_answer(number, setting):
    for story in told(number, setting):
        for question, said in story.asked():
            assert SOLVE[number](said.values(), question.text) == question.answer
            assert SOLVE[number]([said[i] for i in question.support], question.text) == question.answer


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("number", NUMBERS)
def test_the_templates_make_all_that_is_said(number, setting):
    world = WORLDS[number]
    words = words_of(world, setting)
    everything = {slot: (*words[slot], *world.bystanders.get(slot, ())) for slot in words}
    say, ask = pattern(world.statements, everything), pattern(world.questions, words)
    for story in told(number, setting):
        assert all(say.fullmatch(line) for line in story.statements())
        assert all(ask.fullmatch(question.text) for question in story.questions())


@pytest.mark.parametrize("number", NUMBERS)
def test_each_step_of_the_way_is_supported_in_its_order(number):
    for story in told(number, Setting(statements=range(5, 9))):
        for question, said in story.asked():
            named = [SAID.fullmatch(said[i]).group(1, 3) for i in question.support]
            assert all(set(one) & set(other) for one, other in itertools.pairwise(named))
            assert (
                number == 4 or re.search("(?:from|Is) the (.+?) (?:to the|above|below)", question.text)[1] in named[0]
            )


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("statements", [1, 2, 3, 5, 20])
def test_stories_are_as_long_as_planned(number, statements):
    setting = Setting(statements=range(statements, statements + 1), questions=2)
    for story in told(number, setting, 20):
        assert [isinstance(line, str) for line in story.lines] == [True] * statements + [False] * 2


@pytest.mark.parametrize(("statements", "steps"), [(2, 2), (5, 2), (10, 4), (20, 5)])
def test_longer_plans_have_longer_ways(statements, steps):
    for story in told(19, Setting(statements=range(statements, statements + 1)), 20):
        assert story.questions()[0].answer.count(",") == steps - 1


@pytest.mark.parametrize("number", NUMBERS)
def test_distractors_are_about_others_and_do_not_contradict_one_another(number):
    world = WORLDS[number]
    slot = "object" if number == 17 else "place"
    assert not set(world.bystanders[slot]) & {*world.words[slot], *world.novel[slot]}
    for story in told(number, Setting(distractors=6)):
        strewn = [line for line in story.statements() if SAID.fullmatch(line)[1] in world.bystanders[slot]]
        assert len(strewn) == 6
        steps = list(facts(strewn))
        assert len({(one, other) for one, _, other in steps}) == len(set(steps))


@pytest.mark.parametrize("number", NUMBERS)
def test_the_same_seed_tells_the_same(number):
    assert told(number, seed=1) == told(number, seed=1) != told(number, seed=2)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("hold_out", [False, True])
def test_every_split_goes_on(number, hold_out):
    """Task 4 has too few stories for a test split of that many different ones: they come again."""
    setting = Setting(hold_out=hold_out)
    for split, size in generate.SIZES.items():
        stories = generate.split_stories(number, split, 0, setting)
        asked = itertools.chain.from_iterable(story.questions() for story in stories)
        assert len(list(itertools.islice(asked, size))) == size
