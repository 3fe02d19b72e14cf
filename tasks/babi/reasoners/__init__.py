"""Reasoners: the answer to a question of a bAbI task from its text alone, by the rules of the released v1.2 files.

They know the forms of the sentences, not the people, places and objects, and tell where a text does not decide.
"""

from collections.abc import Callable, Sequence

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
    if number not in REASONERS:
        raise ValueError(f"there is no task {number}: they are 1 to {len(REASONERS)}")
    return REASONERS[number](statements, question)


def reads(number: int, statement: str, question: str) -> bool:
    """Whether a statement has one of the forms of a task, whatever it says; the question is one of the task's."""
    try:
        answer(number, [statement], question)
    except UnknownForm as unknown:
        return unknown.sentence != statement
    except ValueError:
        return True  # It is read, and leaves the answer open.
    return True


def entails(number: int, statements: Sequence[str], question: str, expected: str) -> bool:
    """Whether these statements alone give the answer to a question."""
    try:
        return answer(number, statements, question) == expected
    except ValueError:
        return False
