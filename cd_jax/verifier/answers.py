"""Scores answers.

A verifier is a callable with a name, so that a learned one (BLEURT in the paper) can stand beside these.
"""

import collections
import re
import string
from collections.abc import Sequence
from typing import Any, Protocol

import gin

from cd_jax.config.ranges import NonNegativeInt, PositiveInt

_PUNCTUATION = re.escape(string.punctuation + "‘’“”—…")
# What of it belongs to a number: all that stands within it; before it, signs, unless a hyphen joins it to a word, and a
# leading decimal point; after it, `%` and `+`.
_OF_NUMBERS = (
    rf"(?<=\d)[{_PUNCTUATION}]+(?=\d)",
    r"(?:(?<![^\W\d_])-|(?<=\de)-|[+<>=])+(?=[$£€]?\.?\d)",
    r"(?<![\w.])\.(?=\d)",
    r"(?<=\d)[%+]",
)
_DROPPED = re.compile(rf"({'|'.join(_OF_NUMBERS)})|[{_PUNCTUATION}]")
# Blanks between a number and its sign.
_APART = re.compile(r"(?<=\d)\s+(?=%)|(?<=^-)\s+(?=[$£€]?\.?\d)")
# A minus, and the dash that typesetters put in its place.
_MINUS = str.maketrans("−–", "--")
_ARTICLES = frozenset(("a", "an", "the"))


def normalize_answer(answer: str) -> str:
    """What two answers that say the same have in common.

    As in SQuAD, case, articles, punctuation and needless whitespace count for nothing, since a solver's `The kitchen.`
    is the same answer as `kitchen`. What tells answers apart stays:

    - The items of a list keep their order, as a path (`s,e`) must; in bAbI, `milk,football` and `football,milk` are
      two answers, too. They are joined by a bare comma.
    - Numbers keep what stands within them (`1.5`, `3:30`, `1/2`, `2-3`), their signs (`-1`, `+1`, `<5`, `5%`) and a
      leading point. A minus may be spelt as a dash. A currency counts for nothing: `$5` is `5`.
    - Articles and punctuation stay where nothing else would, so that none of `a`, `?` and `,` is empty.
      An article at the end of an item is none: `vitamin a` is not `vitamin`.
    """
    items = [_normalize_item(item) for item in answer.lower().translate(_MINUS).split(",")]
    return ",".join(item for item in items if item) or answer.strip()[:1]


def _normalize_item(item: str) -> str:
    *words, last = _DROPPED.sub(r"\1", _APART.sub("", item.strip())).split() or item.split() or [""]
    return " ".join([word for word in words if word not in _ARTICLES] + [last])


def _tokens(answer: str) -> list[str]:
    normalized = normalize_answer(answer)
    return normalized.replace(",", " ").split() or normalized.split()


class Verifier(Protocol):
    """A verifier policy (arXiv 2212.11353, section 2).

    Attributes:
      name: of the score, as it stands in results.
    """

    name: str

    def __call__(self, predictions: Sequence[str], expected: Sequence[str]) -> list[float]:
        """Scores parsed answers.

        Args:
          predictions: answers, e.g. of `parse_answer`.
          expected: the expected observations, one for each prediction.

        Returns:
          A score in 0..1 for each prediction.

        Raises:
          ValueError: the two are not of the same length.
        """
        ...


@gin.configurable
class ExactMatch:
    """1 where the normalised answers are equal, otherwise 0."""

    name = "exact_match"

    def __call__(self, predictions: Sequence[str], expected: Sequence[str]) -> list[float]:
        """See `Verifier`."""
        pairs = zip(predictions, expected, strict=True)
        return [float(normalize_answer(prediction) == normalize_answer(target)) for prediction, target in pairs]


@gin.configurable
class TokenF1:
    """F1 of the bags of normalised tokens, as in SQuAD."""

    name = "token_f1"

    def __call__(self, predictions: Sequence[str], expected: Sequence[str]) -> list[float]:
        """See `Verifier`."""
        pairs = zip(predictions, expected, strict=True)
        return [_f1(_tokens(prediction), _tokens(target)) for prediction, target in pairs]


def _f1(prediction: list[str], target: list[str]) -> float:
    if not prediction or not target:
        return float(prediction == target)
    common = (collections.Counter(prediction) & collections.Counter(target)).total()
    return 2 * common / (len(prediction) + len(target))


@gin.configurable
class ChrF:
    """Sentence-level chrF of sacrebleu, divided by 100, on the answers as they are."""

    name = "chrf"

    def __init__(self, char_order: PositiveInt = 6, word_order: NonNegativeInt = 0, beta: PositiveInt = 2):
        """Prepares the metric.

        Args:
          char_order: longest character n-gram.
          word_order: longest word n-gram; 2 makes it chrF++.
          beta: weight of recall against precision.
        """
        # Imported here: it takes a while, and most runs are scored by exact match.
        from sacrebleu.metrics import CHRF

        self._metric = CHRF(char_order=char_order, word_order=word_order, beta=beta)

    def __call__(self, predictions: Sequence[str], expected: Sequence[str]) -> list[float]:
        """See `Verifier`."""
        pairs = zip(predictions, expected, strict=True)
        scores = (self._metric.sentence_score(prediction, [target]).score for prediction, target in pairs)
        return [min(max(score / 100, 0.0), 1.0) for score in scores]


def pairwise_accuracy(correct: Sequence[bool], pair_ids: Sequence[str]) -> float | None:
    """The fraction of complementary pairs of which both statements are right (Com2Sense).

    Args:
      correct: whether each answer is right.
      pair_ids: the pair that each answer belongs to; empty where it belongs to none.

    Returns:
      The fraction over the complete pairs, that is, ids that occur exactly twice; None where there are none.

    Raises:
      ValueError: the two are not of the same length.
    """
    complete = _complete_pairs(correct, pair_ids)
    return sum(map(all, complete)) / len(complete) if complete else None


def unpaired(pair_ids: Sequence[str]) -> int:
    """The number of answers that are in no complete pair, and so count for the standard accuracy only."""
    return len(pair_ids) - 2 * len(_complete_pairs(pair_ids, pair_ids))


def _complete_pairs(values: Sequence[Any], pair_ids: Sequence[str]) -> list[list[Any]]:
    """The two values of each id that occurs exactly twice."""
    pairs = collections.defaultdict(list)
    for value, pair_id in zip(values, pair_ids, strict=True):
        if pair_id:
            pairs[pair_id].append(value)
    return [pair for pair in pairs.values() if len(pair) == 2]
