"""The embedded teacher: rules that turn what a data set knows about an answer into words."""

import random

import gin

from cd_jax.feed import formats
from cd_jax.types import Example
from cd_jax.update.teachers.teacher import Explanation

# The phrasings of a kind differ in a short prefix only; the rest is a copy of text that stands in the example. A model
# of a few million parameters learns to copy long before it learns to paraphrase.
_FROM_FACTS = {
    "because": "because {}",
    "know": "we know that {}",
    "story": "the story says: {}",
}
_CONTRAST_IS_NONSENSE = {
    "because": "because it would not make sense to say: {}",
    "unlike": "it makes sense, unlike: {}",
    "nobody": "nobody would say: {}",
}
_CONTRAST_IS_SENSE = {
    "because": "because it would make sense to say: {}",
    "unlike": "it makes no sense, unlike: {}",
    "rather": "one would rather say: {}",
}
_FROM_ANSWER = {
    "because": "because the answer is {}.",
    "know": "we know that it is {}.",
    "nothing_else": "it is {} and nothing else.",
}

_FROM_CONTRAST = {
    "yes": _CONTRAST_IS_NONSENSE,
    "true": _CONTRAST_IS_NONSENSE,
    "no": _CONTRAST_IS_SENSE,
    "false": _CONTRAST_IS_SENSE,
}

# An answer of more words than this is the babble of an untrained solver: nothing to learn from its contrast.
_MAX_ATTEMPT_WORDS = 10


def _phrase(example: Example) -> dict[str, str]:
    """All explanations of the example, by the names of their phrasings."""
    if example.supporting_facts:
        templates, matter = _FROM_FACTS, " ".join(example.supporting_facts)
    elif example.contrast and example.answer.lower() in _FROM_CONTRAST:
        templates, matter = _FROM_CONTRAST[example.answer.lower()], example.contrast
    else:
        templates, matter = _FROM_ANSWER, example.answer
    return {name: template.format(matter) for name, template in templates.items()}


def _phrase_against(example: Example, attempt: str | None) -> dict[str, str]:
    """The same; where the attempt is wrong, `because` says so."""
    phrasings = _phrase(example)
    if wrong := _wrong_answer(example, attempt):
        phrasings["because"] += f" it is {example.answer} and not {wrong}."
    return phrasings


def _wrong_answer(example: Example, attempt: str | None) -> str:
    """The answer in the attempt, in one line; empty where there is none, it is right or it is babble."""
    words = formats.parse_answer(attempt or "").lower().strip(" \t\r\n.").split()
    if (
        not formats.has_answer(attempt or "")
        or len(words) > _MAX_ATTEMPT_WORDS
        or words == example.answer.lower().split()
    ):
        return ""
    return " ".join(words)


@gin.configurable
class OracleTeacher:
    """Explains from the supporting facts (bAbI) or from the complementary statement (Com2Sense).

    It needs no network and no key. What the data itself says in explanation is passed on as it is. An example that has
    none of these is explained by its answer alone. Where the solver's attempt ends in a wrong answer, the phrasing
    `because` also says what the answer is not.
    """

    name = "oracle"

    def explain(self, example: Example, attempt: str | None, num_updates: int, seed: int) -> list[Explanation]:
        """See `Teacher.explain`. The order depends on the seed and `example_id` only, on every machine."""
        explanations = [Explanation(text, "given") for text in example.explanations]
        if not explanations:
            explanations = [Explanation(text, name) for name, text in _phrase_against(example, attempt).items()]
        random.Random(f"{seed}/{example.example_id}").shuffle(explanations)
        return explanations[: max(num_updates, 0)]
