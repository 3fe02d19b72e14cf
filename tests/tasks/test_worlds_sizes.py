"""The world of sizes (task 18): the text alone, read anew here, decides every answer."""

import itertools
import re

import pytest

from cd_jax.tasks.babi.worlds import WORLDS, generate
from cd_jax.tasks.babi.worlds.grammar import pattern
from cd_jax.tasks.babi.worlds.world import Setting, words_of

SETTINGS = {
    "released": Setting(),
    "novel": Setting(novel=("object",)),
    "distractors": Setting(distractors=6),
    "any length": Setting(statements=range(2, 21), questions=3),
    "more questions": Setting(questions=12),
}


def told(setting=generate.RELEASED, count=100, seed=3):
    return list(itertools.islice(generate.stories(18, seed, setting), count))


def smaller(sentence):
    """What the sentence says, or asks, to be smaller, and than what."""
    if match := re.fullmatch("(?:The (.+) fits inside|Does the (.+) fit in) the (.+)[.?]", sentence):
        return match[1] or match[2], match[3]
    match = re.fullmatch("(?:The (.+) is|Is the (.+)) bigger than the (.+)[.?]", sentence)
    return match[3], match[1] or match[2]


def order(statements):
    """All pairs that follow from the statements."""
    pairs = {smaller(statement) for statement in statements}
    while new := {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs:
        pairs |= new
    return pairs


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_text_and_supporting_facts_alone_give_the_answer(setting):
    for story in told(setting):
        for question, said in story.asked():
            small, big = smaller(question.text)
            for statements in (said.values(), [said[i] for i in question.support]):
                assert ((small, big) in order(statements)) == (question.answer == "yes")
                assert ((big, small) in order(statements)) == (question.answer == "no")


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_templates_make_all_that_is_said(setting):
    world = WORLDS[18]
    words = words_of(world, setting)
    everything = {"object": words["object"] + world.bystanders["object"]}
    say, ask = pattern(world.statements, everything), pattern(world.questions, words)
    for story in told(setting):
        assert all(say.fullmatch(line) for line in story.statements())
        assert all(ask.fullmatch(question.text) for question in story.questions())


def test_the_fact_with_the_bigger_or_the_smaller_thing_of_the_question_comes_first():
    """As in the released files, where `yes` lists the bigger thing's fact first and `no` the smaller thing's."""
    for story in told():
        for question, said in story.asked():
            first, second = (smaller(said[i]) for i in question.support)
            lower, upper = (second, first) if question.answer == "yes" else (first, second)
            assert lower[1] == upper[0]
            assert {lower[0], upper[1]} == set(smaller(question.text))


def test_statements_come_in_fives():
    counts = {len(story.statements()) for story in told(count=1000)}
    assert {5, 10} < counts
    assert all(count % 5 == 0 for count in counts)
    assert {len(story.questions()) for story in told()} == {5}


def test_chocolate_is_the_smallest_and_its_box_the_next():
    boxes = set()
    for story in told(count=300):
        pairs = {smaller(statement) for statement in story.statements()}
        assert not any(big == "chocolate" for _, big in pairs)
        assert {small for small, big in pairs if big == "box of chocolates"} <= {"chocolate"}
        boxes |= {pair for pair in pairs if not {"chocolate", "box of chocolates"} & set(pair)}
    assert all((big, small) in boxes for small, big in boxes)


def test_one_statement_is_too_few_to_conclude_from():
    world = WORLDS[18]
    assert world.tell(None, world.words, (1,)) is None


def test_distractors_are_about_others():
    world = WORLDS[18]
    assert not set(world.bystanders["object"]) & {*world.words["object"], *world.novel["object"]}
    for story in told(Setting(distractors=6)):
        assert sum(set(smaller(line)) <= set(world.bystanders["object"]) for line in story.statements()) == 6


def test_the_same_seed_tells_the_same():
    assert told(seed=1) == told(seed=1) != told(seed=2)
