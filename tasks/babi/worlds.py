"""Embedded worlds: bAbI-like stories made afresh, for where the original files are not at hand.

Written after the description of the tasks in arXiv 1502.05698 (tasks 1, 2, 6, 9, 11, 12 and 13), with the phrasing of
the released files, so that a solver meets the same language. Stories come from a seed: a split is the same on every
machine.
"""

import functools
import random
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cd_jax.types import Example

PEOPLE = {"Mary": "she", "John": "he", "Daniel": "he", "Sandra": "she"}
PLACES = ("kitchen", "garden", "office", "bedroom", "bathroom", "hallway")
OBJECTS = ("football", "milk", "apple")
MOVES = ("went to", "moved to", "travelled to", "journeyed to", "went back to")
TAKES = ("picked up the {} there", "got the {} there", "took the {} there", "grabbed the {} there")
DROPS = ("dropped the {}", "left the {}", "discarded the {}", "put down the {}")
SEQUELS = ("Then", "After that", "Afterwards", "Following that")

# Of a hundred prompts (by checksum, so that no prompt stands in two splits) these go to each split.
_SPLITS = {"test": range(0, 10), "validation": range(10, 20), "train": range(20, 100)}


class Story(NamedTuple):
    """Sentences, a question about them, and the indices of the sentences that answer it."""

    sentences: list[str]
    question: str
    answer: str
    support: list[int]


def _other(rng: random.Random, choices: tuple[str, ...], current: str | None) -> str:
    return rng.choice([c for c in choices if c != current])


def _walk(rng: random.Random, length: int) -> tuple[list[str], dict[str, tuple[str, int]]]:
    """Moves of single people; where each one is at the end, and the sentence that says so."""
    sentences, where = [], {}
    for i in range(length):
        person = rng.choice(list(PEOPLE))
        place = _other(rng, PLACES, where.get(person, (None,))[0])
        sentences.append(f"{person} {rng.choice(MOVES)} the {place}.")
        where[person] = (place, i)
    return sentences, where


def _one_fact(rng: random.Random, length: int) -> Story:
    sentences, where = _walk(rng, length)
    person = rng.choice(list(where))
    place, fact = where[person]
    return Story(sentences, f"Where is {person}?", place, [fact])


def _two_facts(rng: random.Random, length: int) -> Story | None:
    """Where an object is: who took it, and where that person went since. None where nobody holds a thing in a place."""
    sentences, where, carried, resting = [], {}, {}, {}
    for i in range(length):
        person = rng.choice(list(PEOPLE))
        here = where.get(person, (None, 0))[0]
        held = [thing for thing, (holder, _) in carried.items() if holder == person]
        free = [thing for thing in OBJECTS if here and thing not in carried and resting.get(thing, (here,))[0] == here]
        action = rng.random()
        if held and action < 0.2:
            thing = rng.choice(held)
            sentences.append(f"{person} {rng.choice(DROPS).format(thing)}.")
            _, taken = carried.pop(thing)
            resting[thing] = (here, [taken, where[person][1]])
        elif free and action < 0.6:
            thing = rng.choice(free)
            sentences.append(f"{person} {rng.choice(TAKES).format(thing)}.")
            carried[thing] = (person, i)
            resting.pop(thing, None)
        else:
            place = _other(rng, PLACES, here)
            sentences.append(f"{person} {rng.choice(MOVES)} the {place}.")
            where[person] = (place, i)
    known = dict(resting)
    known.update({o: (where[p][0], [taken, where[p][1]]) for o, (p, taken) in carried.items()})
    if not known:
        return None
    thing = rng.choice(sorted(known))
    place, support = known[thing]
    return Story(sentences, f"Where is the {thing}?", place, sorted(support))


def _yes_no(rng: random.Random, length: int) -> Story:
    sentences, where = _walk(rng, length)
    person = rng.choice(list(where))
    place, fact = where[person]
    asked, answer = (place, "yes") if rng.random() < 0.5 else (_other(rng, PLACES, place), "no")
    return Story(sentences, f"Is {person} in the {asked}?", answer, [fact])


def _negation(rng: random.Random, length: int) -> Story:
    """Yes/no questions where some sentences only say where a person is not."""
    sentences, known = [], {}
    for i in range(length):
        person = rng.choice(list(PEOPLE))
        place, is_there, _ = known.get(person, (None, False, 0))
        if rng.random() < 0.35:
            gone = place if is_there else _other(rng, PLACES, None)
            sentences.append(f"{person} is {'no longer' if rng.random() < 0.5 else 'not'} in the {gone}.")
            known[person] = (gone, False, i)
        else:
            new = _other(rng, PLACES, place)
            sentences.append(f"{person} {rng.choice(('is in', *MOVES))} the {new}.")
            known[person] = (new, True, i)
    person = rng.choice(list(known))
    place, is_there, fact = known[person]
    if not is_there:
        return Story(sentences, f"Is {person} in the {place}?", "no", [fact])
    asked, answer = (place, "yes") if rng.random() < 0.6 else (_other(rng, PLACES, place), "no")
    return Story(sentences, f"Is {person} in the {asked}?", answer, [fact])


def _conjunction(rng: random.Random, length: int) -> Story:
    sentences, where = [], {}
    for i in range(length):
        pair, place = rng.sample(list(PEOPLE), 2), rng.choice(PLACES)
        sentences.append(f"{pair[0]} and {pair[1]} {rng.choice(MOVES)} the {place}.")
        where.update({person: (place, [i]) for person in pair})
    person = rng.choice(list(where))
    return Story(sentences, f"Where is {person}?", where[person][0], where[person][1])


def _coreference(rng: random.Random, length: int, group: int) -> Story:
    """Pairs of sentences, the second naming its people by a pronoun (tasks 11 and 13)."""
    sentences, where = [], {}
    for i in range(0, max(2, length // 2 * 2), 2):
        people, first = rng.sample(list(PEOPLE), group), rng.choice(PLACES)
        second, sequel = _other(rng, PLACES, first), rng.choice(SEQUELS)
        pronoun = PEOPLE[people[0]] if group == 1 else "they"
        sentences.append(f"{' and '.join(people)} {rng.choice(MOVES)} the {first}.")
        sentences.append(f"{sequel} {pronoun} {rng.choice(MOVES)} the {second}.")
        where.update({person: (second, [i, i + 1]) for person in people})
    person = rng.choice(list(where))
    return Story(sentences, f"Where is {person}?", where[person][0], where[person][1])


WORLDS: dict[int, Callable[[random.Random, int], Story | None]] = {
    1: _one_fact,
    2: _two_facts,
    6: _yes_no,
    9: _negation,
    11: functools.partial(_coreference, group=1),
    12: _conjunction,
    13: functools.partial(_coreference, group=2),
}


def _stories(number: int, sentences: range, seed: int) -> Iterator[Story]:
    rng = random.Random(f"{seed}/{number}/{sentences}")
    while True:
        story = WORLDS[number](rng, rng.choice(sentences))
        # A pair of sentences can miss the range by one: a longer story must not be as short as a short one.
        if story is not None and len(story.sentences) in sentences:
            yield story


@functools.lru_cache(maxsize=128)
def read(
    number: int, split: str, task: str, size: int, sentences: range = range(2, 11), seed: int = 0
) -> list[Example]:
    """Distinct examples of one of the embedded worlds.

    Args:
      number: of the bAbI task, one of `WORLDS`.
      split: `train`, `validation` or `test`; no prompt is in two of them.
      task: the name of the SeqIO task.
      size: examples.
      sentences: the lengths of the stories, in sentences. Tasks 11 and 13 make pairs: theirs are the even ones.
      seed: of the stories.

    Returns:
      `size` examples, one question a story.
    """
    examples, seen = [], set()
    for story in _stories(number, sentences, seed):
        context = " ".join(story.sentences)
        prompt = f"{context} {story.question}"
        if zlib.crc32(prompt.encode()) % 100 not in _SPLITS[split] or prompt in seen:
            continue
        seen.add(prompt)
        facts = tuple(story.sentences[i] for i in story.support)
        example_id = f"{task}/world/{split}/{len(examples)}"
        examples.append(Example(example_id, task, context, story.question, story.answer, facts))
        if len(examples) == size:
            return examples
    raise AssertionError("the stream of stories has no end")
