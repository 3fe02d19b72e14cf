"""Updates of the rule oracle, of which some are spoilt in known ways."""

import dataclasses
import random

from cd_jax.types import Update
from cd_jax.update.teachers.oracle import OracleTeacher

WAYS = ("wrong answer", "answer alone", "false fact", "too few facts", "repeated", "babble")
_BABBLING = "and then the same again as it was before in the other place that nobody knows of"
_BABBLE = _BABBLING.split()


def updates_of(examples, seed, phrasing="because"):
    """One of each example, that says its facts and its answer."""
    found = []
    for example in examples:
        said = {one.prompt: one.text for one in OracleTeacher().explain(example, None, 9, seed)}
        text = f"{said.get(phrasing) or next(iter(said.values()))} the answer is {example.answer}."
        found.append(Update(example.example_id, example.task, text, "oracle", phrasing, 0, seed))
    return found


def corrupt(examples, updates, share, seed):
    """The updates, a share of them spoilt, and the way of each; a copy that was made stands behind its original.

    Args:
      examples: of the updates, in their order.
      updates: one of each.
      share: of them.
      seed: of the draws.

    Returns:
      Updates, and the way of each: one of `WAYS`, or empty.
    """
    rng = random.Random(seed)
    answers = sorted({example.answer for example in examples})
    spoilt, ways = [], []
    for example, update in zip(examples, updates, strict=True):
        way = rng.choice(WAYS) if rng.random() < share else ""
        text = _spoil(way, example, update.update, answers, rng) if way else update.update
        if text is None:
            way, text = "", update.update
        if way == "repeated":
            spoilt.append(update)
            ways.append("")
            update = dataclasses.replace(update, sample=1)
        spoilt.append(dataclasses.replace(update, update=text))
        ways.append(way)
    return spoilt, ways


def _spoil(way, example, text, answers, rng):
    """The spoilt text; None where the example cannot be spoilt so."""
    if way == "wrong answer":
        wrong = rng.choice([answer for answer in answers if answer != example.answer])
        return text.replace(f"the answer is {example.answer}.", f"the answer is {wrong}.")
    if way == "answer alone":
        return f"the answer is {example.answer} because it is {example.answer}."
    if way == "repeated":
        return text.replace("because ", "since ", 1)
    if way == "babble":
        return " ".join(rng.choice(_BABBLE) for _ in range(rng.randrange(80, 200)))
    return _spoil_facts(way, example, text, rng)


def _spoil_facts(way, example, text, rng):
    facts = [fact for fact in example.supporting_facts if fact in text]
    if not facts:
        return None
    if way == "too few facts":
        return text.replace(facts[-1], "", 1) if len(facts) > 1 else None
    # A name of somebody else, or of another place, in a sentence of the story.
    fact = rng.choice(facts)
    names = sorted(
        {word for word in example.context.replace(".", "").split() if word[:1].isupper()} - {fact.split()[0]}
    )
    false = [f"{name} {' '.join(fact.split()[1:])}" for name in names]
    false = [one for one in false if one not in example.context]
    return text.replace(fact, rng.choice(false), 1) if false else None
