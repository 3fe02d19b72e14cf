"""Filters that ask the rule reasoner of bAbI what an update's facts say (Weston et al. 2015, arXiv 1502.05698)."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import gin

from cd_jax.tasks.babi import reasoners
from cd_jax.types import Example, Update
from cd_jax.verifier.answers import normalize_answer

_TASK = re.compile(r"babi_qa(\d+)(?!\d)")
_WORD = re.compile(r"[\w'-]+")
# What stands between the clauses of an explanation, and before them.
_CLAUSE = re.compile(
    r"[.;:!?\n]+|,?\s+\b(?:because|since|so|and then|and so|but|therefore|while|which means)\b\s*", re.IGNORECASE
)
_LEAD = re.compile(
    r"^\W*(?:(?:because|since|so|and|but|then|first|second|next|finally|we know|the story says|therefore)\b[\s,:]*)*"
    r"(?:that\s+)?",
    re.IGNORECASE,
)


class Cited(NamedTuple):
    """What an update takes from a story.

    Attributes:
      facts: the sentences of the story that it cites: as often as it cites them where its own order is the story's,
        else all of these that the story has, in the story's order.
      false: what it says in the story's language that does not stand in the story.
    """

    facts: list[str]
    false: list[str]


def task_number(example: Example) -> int | None:
    """The number of the bAbI task that an example is of; None of other tasks."""
    found = _TASK.match(example.task)
    number = int(found[1]) if found else 0
    return number if number in reasoners.REASONERS else None


def cited(number: int, example: Example, text: str) -> Cited:
    """The sentences of the story in an update, whatever their case and punctuation, and those of no story.

    Args:
      number: of the task.
      example: whose context is the story.
      text: the update.
    """
    story = example.sentences
    words = _plain(text)
    facts = _in_order(story, [fact for fact in story if _plain(fact) in words], words)
    known = {_plain(fact) for fact in story}
    false = []
    for clause in _CLAUSE.split(text):
        said = _LEAD.sub("", clause).strip(" ,\"'“”‘’")
        sentence = f"{said[:1].upper()}{said[1:]}."
        # One that stands in the story, or within a longer citation of it, is none of these.
        if (
            said
            and not any(_plain(said) in one for one in known)
            and reasoners.reads(number, sentence, example.question)
        ):
            false.append(sentence)
    return Cited(facts, false)


def _in_order(story: Sequence[str], facts: list[str], words: str) -> list[str]:
    """A story may say a sentence twice: which of the two is meant, the sentences around it in the update tell."""
    # Where one begins with another, `The cup fits inside the box of tea`, the longer one is meant.
    starts = {
        at.start(): fact
        for fact in sorted(facts, key=len)
        for at in re.finditer(f"(?={re.escape(_plain(fact))})", words)
    }
    said = [starts[start] for start in sorted(starts)]
    ahead = iter(story)
    return said if all(fact in ahead for fact in said) else facts


def _plain(text: str) -> str:
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _entailed(number: int, facts: Sequence[str], question: str) -> str | None:
    """The answer that the facts alone give; None where they leave it open."""
    try:
        return reasoners.answer(number, facts, question)
    except ValueError:
        return None


@gin.configurable
class ContradictsFacts:
    """The facts that the update cites, or makes up, give another answer than the expected one; bAbI only."""

    name = "contradicts the facts"

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        number = task_number(example)
        if number is None:
            return ""
        found = cited(number, example, update.update)
        entailed = _entailed(number, [*found.facts, *found.false], example.question)
        if not (found.facts or found.false) or entailed is None:
            return ""
        if normalize_answer(entailed) == normalize_answer(example.answer):
            return ""
        return f"its facts say {entailed!r}, and the answer is {example.answer!r}"


@gin.configurable
class Unfaithful:
    """A fact that the update cites does not stand in the story, or those that do leave the answer open; bAbI only."""

    name = "unfaithful"

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        number = task_number(example)
        if number is None:
            return ""
        found = cited(number, example, update.update)
        if found.false:
            return f"{found.false[0]!r} does not stand in the story"
        if not found.facts:
            return "cites nothing of the story"
        if not reasoners.entails(number, found.facts, example.question, example.answer):
            return "what it cites does not give the answer"
        return ""
