"""Reasoners: the answer to a question of a bAbI task from its text alone, by the rules of the released v1.2 files.

They read the dialect of today's generator of the tasks too, and follow its rules where its forms are not the files'.
They know the forms of the sentences, not the people, places and objects, and tell where a text does not decide.
"""

from collections.abc import Callable, Sequence
from functools import partial

from cd_jax.tasks.babi.reasoners import animals, motives, space, whereabouts, world
from cd_jax.tasks.babi.reasoners.text import UnknownForm

#: Of each task, what derives the answer from the statements before a question, in order, and the question.
REASONERS: dict[int, Callable[[Sequence[str], str], str]] = {
    1: world.where_is_person,
    2: world.where_is_thing,
    3: world.where_before,
    4: space.neighbour,
    5: world.gift,
    6: world.is_in,
    7: world.count,
    8: world.what_is_carried,
    9: whereabouts.negation,
    10: whereabouts.alternatives,
    11: whereabouts.pronoun,
    12: whereabouts.conjunction,
    13: whereabouts.pronoun_of_pair,
    14: whereabouts.times,
    15: animals.afraid_of,
    16: animals.colour,
    17: space.is_placed,
    18: space.is_bigger,
    19: space.way,
    20: motives.motive,
}


# Those that take a part of a story, without what happened in between, otherwise than a whole one.
_OF_A_PART: dict[int, Callable[[Sequence[str], str], str]] = {
    2: partial(world.where_is_thing, whole=False),
    3: partial(world.where_before, whole=False),
    6: partial(world.is_in, whole=False),
    7: partial(world.count, whole=False),
    8: partial(world.what_is_carried, whole=False),
    20: partial(motives.motive, whole=False),
}


def answer(number: int, statements: Sequence[str], question: str) -> str:
    """Derive the answer to a question.

    Args:
      number: of the task, 1 to 20.
      statements: the story before the question, in order, without questions.
      question: as the files have it.

    Returns:
      The answer as the files have it: `kitchen`, `milk,football`, `nothing`, `two`, `s,w`, `yes`, ...

    Raises:
      ValueError: the message names the sentence that has none of the task's forms, or what the text leaves open.
    """
    return _of_task(number)(statements, question)


def reads(number: int, statement: str, question: str) -> bool:
    """Whether a statement has one of the forms of a task, whatever it says; the question is one of the task's."""
    try:
        answer(number, [statement], question)
    except UnknownForm as unknown:
        return unknown.sentence != statement
    except ValueError:
        return True  # It is read, and leaves the answer open.
    return True


def entails(number: int, statements: Sequence[str], question: str, answer: str) -> bool:
    """Whether some statements of a story by themselves, without the others, give the answer to a question.

    They are taken at their word: what none of them changes has stayed, and who drops a thing had it, from the start
    where no taking of it is among them. A pronoun means whom the statement before it means among these. Yet they must
    speak of what is asked: `no` rests on where somebody is or is not, `maybe` on an alternative, `nothing`, `none` and
    `zero` on what somebody took, dropped, gave or was given.

    Args:
      number: of the task, 1 to 20.
      statements: of the story before the question, any, in its order.
      question: as the files have it.
      answer: as the files have it.

    Returns:
      True where exactly this answer follows; False where another does, or none, or one of the sentences has none of the
      task's forms.

    Raises:
      ValueError: there is no task of this number.
    """
    of_task = _OF_A_PART.get(number, _of_task(number))
    try:
        return of_task(statements, question) == answer
    except ValueError:
        return False


def _of_task(number: int) -> Callable[[Sequence[str], str], str]:
    if number not in REASONERS:
        raise ValueError(f"there is no task {number}: they are 1 to {len(REASONERS)}")
    return REASONERS[number]
