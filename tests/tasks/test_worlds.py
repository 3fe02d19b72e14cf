"""The twenty embedded worlds, judged by the reasoners, which share nothing with them, and by the released files."""

import collections
import hashlib
import itertools
import os
import subprocess
import sys

import pytest

from cd_jax.tasks.babi import archive, reasoners
from cd_jax.tasks.babi.worlds import WORLDS, generate, shifts
from cd_jax.tasks.babi.worlds.grammar import pattern
from cd_jax.tasks.babi.worlds.world import Setting, words_of
from originals import BABI_DIR, needs_babi

NUMBERS = list(range(1, 21))
QUESTIONS = 300
SHIFTED = [(number, shift) for shift in shifts.SHIFTS for number in shifts.worlds_of(shift)]


def stories(number, setting=generate.RELEASED, questions=QUESTIONS, seed=7):
    told, left = [], questions
    for story in generate.stories(number, seed, setting):
        told.append(story)
        left -= len(story.questions())
        if left <= 0:
            return told


def disagreements(number, told):
    return [
        (said, question)
        for story in told
        for question, said in story.asked()
        if reasoners.answer(number, list(said.values()), question.text) != question.answer
    ]


def test_there_are_twenty():
    assert list(WORLDS) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_reasoner_and_world_agree(number):
    assert disagreements(number, stories(number)) == []


@pytest.mark.parametrize(("number", "shift"), SHIFTED)
def test_reasoner_and_world_agree_on_shifted_stories(number, shift):
    assert disagreements(number, stories(number, shifts.SHIFTS[shift], 100)) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_the_grammar_has_all_that_is_said(number):
    world = WORLDS[number]
    for setting in (generate.RELEASED, Setting(novel=("person", "place", "object"))):
        words = words_of(world, setting)
        say, ask = pattern(world.statements, words), pattern(world.questions, words)
        for story in stories(number, setting, 100):
            assert [line for line in story.statements() if not say.fullmatch(line)] == []
            assert [question for question in story.questions() if not ask.fullmatch(question.text)] == []


@pytest.mark.parametrize("number", NUMBERS)
def test_questions_rest_on_statements_that_were_made(number):
    for story in stories(number):
        for question, said in story.asked():
            assert question.support
            assert set(question.support) <= said.keys()


@needs_babi
@pytest.mark.parametrize("number", NUMBERS)
def test_the_grammar_has_the_released_sentences(number):
    world = WORLDS[number]
    say, ask = pattern(world.statements, world.words), pattern(world.questions, world.words)
    told = archive.read_stories(BABI_DIR, number, "test", "en")
    lines = [bool(say.fullmatch(line)) for story in told for line in story.statements()]
    lines += [bool(ask.fullmatch(question.text)) for story in told for question in story.questions()]
    assert sum(lines) / len(lines) >= 0.99
    answers = [question.answer for story in told for question in story.questions()]
    common = {answer for answer, count in collections.Counter(answers).items() if count >= 10}
    assert common <= {question.answer for story in stories(number, questions=3000) for question in story.questions()}


@pytest.mark.parametrize("shift", ["names", "places", "objects"])
def test_shifted_words_are_new(shift):
    for number in shifts.worlds_of(shift):
        world = WORLDS[number]
        [slot] = shifts.SHIFTS[shift].novel
        assert len(world.novel[slot]) == len(world.words[slot])
        released = {word.lower() for words in WORLDS.values() for group in words.words.values() for word in group}
        assert not released & {word.lower() for word in world.novel[slot]}, number


@pytest.mark.parametrize("number", NUMBERS)
def test_longer_stories_are_longer(number):
    def statements(setting):
        told = stories(number, setting, 100)
        return sum(len(story.statements()) for story in told) / len(told)

    assert statements(shifts.SHIFTS["length"]) > 1.8 * statements(generate.RELEASED)


@pytest.mark.parametrize("number", NUMBERS)
def test_distractors_come_on_top(number):
    for bare, strewn in zip(
        stories(number, questions=40), stories(number, Setting(distractors=6), questions=40), strict=False
    ):
        assert len(strewn.statements()) >= 6 + min(2, len(bare.statements()))
        assert not isinstance(strewn.lines[-1], str)


@pytest.mark.parametrize("number", shifts.worlds_of("short"))
@pytest.mark.parametrize("shift", ["short", "longer"])
def test_stories_are_as_long_as_asked(number, shift):
    setting = shifts.SHIFTS[shift]
    for story in stories(number, setting, 100):
        assert len(story.statements()) in setting.statements
        assert len(story.questions()) == 1


@pytest.mark.parametrize("number", NUMBERS)
def test_no_prompt_is_in_two_splits(number):
    seen = {}
    for split, size in {"train": 900, "validation": 100, "test": 300}.items():
        rows = generate.read(number, split, "babi", size)
        assert len(rows) == size
        assert len({row.example_id for row in rows}) == size
        # All of task 20's stories begin with one of 16 statements, and ask at once.
        seen[split] = {row.prompt for row in rows if number != 20 or row.context.count(".") > 4}
        assert len(seen[split]) > size / 2
    for one, other in itertools.combinations(seen.values(), 2):
        assert not one & other


@pytest.mark.parametrize("number", NUMBERS)
def test_held_out_compositions_are_asked_in_test_alone(number):
    rows = {
        split: generate.read(number, split, "babi", 100, shifts.SHIFTS["compositions"]) for split in ("train", "test")
    }
    asked = {split: {(row.question, row.answer) for row in rows[split]} for split in rows}
    assert not asked["train"] & asked["test"]
    assert min(map(len, asked.values())) > 1


@pytest.mark.parametrize("number", NUMBERS)
def test_every_split_begins_in_many_ways(number):
    openings = {story.lines[0] for story in itertools.islice(generate.split_stories(number, "test"), 100)}
    assert len(openings) >= 10


def test_what_no_story_can_be_is_told():
    with pytest.raises(ValueError, match=r"task 16 has no story of .*statements=range\(1, 2\)"):
        next(generate.stories(16, setting=Setting(statements=range(1, 2))))


def test_ids_are_counted_from_0():
    rows = generate.read(1, "test", "some_task", 3)
    assert [row.example_id for row in rows] == [f"some_task/test/{i}" for i in range(3)]
    assert {row.task for row in rows} == {"some_task"}


def test_fewer_examples_are_the_first_of_more():
    assert generate.read(2, "train", "babi", 20) == generate.read(2, "train", "babi", 50)[:20]


def test_another_seed_tells_other_stories():
    assert generate.read(1, "train", "babi", 50, seed=1) != generate.read(1, "train", "babi", 50, seed=0)


_DIGEST = """
import hashlib
from cd_jax.tasks.babi.worlds import WORLDS, generate
print(hashlib.sha256(repr([generate.read(n, "train", "babi", 50) for n in WORLDS]).encode()).hexdigest())
"""


@pytest.mark.parametrize("hash_seed", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_same_in_every_process(hash_seed):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, env=environment, check=True)
    here = repr([generate.read(n, "train", "babi", 50) for n in WORLDS]).encode()
    assert ran.stdout.strip() == hashlib.sha256(here).hexdigest()
