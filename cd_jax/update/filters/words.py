"""Filters that look at an update's words alone: its own answer, its length, and what was said before."""

import re
from collections.abc import Callable, Sequence

import gin

from cd_jax.config.ranges import PositiveInt, Share
from cd_jax.feed import formats
from cd_jax.types import Example, Update
from cd_jax.verifier.answers import ChrF, Verifier, normalize_answer

_SAID = re.compile(
    r"\b(?:the (?:right |correct |only )?answer (?:is|must be|should be)|it is|it's)\s*:?\s+"
    r"(?P<no>not\s+)?[\"'`]?(?P<answer>[^.;:!?\n\"`]+?)[\"'`]?"
    r"(?=\s+(?:and (?:not|nothing)|because|since|as|but)\b|[.;:!?\"`]|,\s|$)",
    re.IGNORECASE,
)
_SENSE = re.compile(
    r"^\W*(?:because\s+)?(?:it|this|that|the (?:statement|sentence|claim))\s+"
    r"(?:(?P<no>makes no sense|does(?: not|n['’]t) make (?:any )?sense|is nonsens\w*)|"
    r"(?P<yes>makes (?:perfect )?sense))",
    re.IGNORECASE,
)
_YES, _NO = frozenset(("yes", "true")), frozenset(("no", "false"))
_WORD = re.compile(r"[\w'’]+")
# Words that say of an answer that it is one, and no more.
_EMPTY_WORDS = """
a an the and or not nothing else is are was were be been has have it its this that these those there here we know so
because since as of to in on at by for from with answer answers right correct wrong true false yes no why must should
would says said what where who which how does do did make makes sense student answered question therefore thus
explanation explained reason
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())


def own_answers(text: str) -> list[tuple[str, bool]]:
    """The answers that an update states, and whether it says that they are the right ones."""
    found = [(match["answer"].strip(), match["no"] is None) for match in _SAID.finditer(text)]
    if formats.has_answer(text):
        found.append((formats.parse_answer(text), True))
    return found


def _means(stated: str, answer: str) -> bool:
    """Whether the stated answer is this one, also within more words: `in the kitchen`."""
    words, wanted = normalize_answer(stated).split(), normalize_answer(answer).split()
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


@gin.configurable
class ContradictsLabel:
    """The answer that the update itself states is not the expected one."""

    name = "contradicts the label"

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        for stated, affirmed in own_answers(update.update):
            # `It is` also begins what is no answer: only what could be one, by its length, counts.
            if affirmed != _means(stated, example.answer) and len(stated.split()) <= 2 + len(example.answer.split()):
                return f"says {'' if affirmed else 'not '}{stated!r}, and the answer is {example.answer!r}"
        sense = _SENSE.match(update.update)
        said = sense and ("yes" if sense["yes"] else "no")
        expected = example.answer.lower()
        if (said == "yes" and expected in _NO) or (said == "no" and expected in _YES):
            return f"says {said!r}, and the answer is {example.answer!r}"
        return ""


@gin.configurable
class AnswerAlone:
    """The update says the answer and the question again, and no reason."""

    name = "answer alone"

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        known = _EMPTY | _words(example.answer) | _words(example.question)
        is_told = _words(update.update) - known or _cites(example, update.update)
        return "" if is_told else "gives no reason"


@gin.configurable
class TooLong:
    """The update has more words than an explanation may have (200 tokens in the paper)."""

    name = "too long"

    def __init__(self, most: PositiveInt = 200):
        """Filters nothing yet.

        Args:
          most: words, as runs of letters and digits.
        """
        self._most = most

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        number = len(_WORD.findall(update.update))
        return f"{number} words, {self._most} at most" if number > self._most else ""


@gin.configurable
class NearDuplicate:
    """The update says what another one of the example says, in nearly the same words."""

    name = "duplicate"

    def __init__(self, similarity: Share = 0.8):
        """Filters nothing yet.

        Args:
          similarity: shared words over all words of both (Jaccard's coefficient), without those that say nothing, from
            which on it is one; 1: the same words.
        """
        self._similarity = similarity

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        words = _content(update.update)
        for other in kept:
            others = _content(other.update)
            if len(words & others) >= self._similarity * len(words | others):
                return f"as sample {other.sample} says"
        return ""


@gin.configurable
class Improbable:
    """The teacher itself held the update for improbable; one whose probability is not known passes."""

    name = "improbable"

    def __init__(self, least: float = -1.5):
        """Filters nothing yet.

        Args:
          least: mean log-probability of its tokens, in nats.
        """
        self._least = least

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        if update.log_prob is None or update.log_prob >= self._least:
            return ""
        return f"mean log-probability {update.log_prob:.2f}, {self._least:g} at least"


@gin.configurable
class LowScore:
    """A verifier finds little in the update of what the data gives for a reason, see `Example.reasons`; an example of
    which it gives none passes."""

    name = "low score"

    def __init__(self, verifier: Callable[[], Verifier] = ChrF, least: Share = 0.3):
        """Filters nothing yet.

        Args:
          verifier: makes it.
          least: score against the best of the reasons.
        """
        self._verifier, self._least = verifier(), least

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """See `Filter`."""
        references = example.reasons
        if not references:
            return ""
        score = max(self._verifier([update.update] * len(references), references))
        return f"{self._verifier.name} {score:.2f}, {self._least:g} at least" if score < self._least else ""


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))


def _content(text: str) -> frozenset[str]:
    """Its words without those that say nothing; all of them where there are no others."""
    return _words(text) - _EMPTY or _words(text)


def _cites(example: Example, text: str) -> bool:
    """Whether a sentence of a story stands in it; a context of one sentence is no story, but what is asked about."""
    sentences = example.sentences
    said = f" {' '.join(_WORD.findall(text.lower()))} "
    return len(sentences) > 1 and any(f" {' '.join(_WORD.findall(one.lower()))} " in said for one in sentences)
