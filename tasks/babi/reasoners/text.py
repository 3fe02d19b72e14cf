"""Sentences are read by their form alone: which words are names, places or objects is never looked up in a list.

The forms are those of the released v1.2 files, and those into which the generator of the tasks has since changed some.
"""

import re

# Between the words of a noun they would join two nouns, or a noun and what is said of it.
_NO_NOUN = r"(?!(?:[Tt]he|an?|and|or|is|to|there|this|yesterday)\b)"
_NOUN = rf"{_NO_NOUN}\w[\w'-]*(?: {_NO_NOUN}\w[\w'-]*)*?"
# Sentences begin with them, so that they are capitalised though nobody is called so.
_NO_NAME = r"(?!(?:The|He|She|They|It|This|Yesterday|Then|After|Afterwards|Following)\b)"
_PERSON = rf"{_NO_NAME}[A-ZÀ-ÖØ-Þ][\w'-]*"

_SLOTS = {
    "PERSON": f"({_PERSON})",
    "PEOPLE": f"({_PERSON}(?:, {_PERSON})*,? and {_PERSON})",
    # Some tasks do not capitalise names in questions.
    "NAME": r"(\w[\w'-]*)",
    "NOUN": f"({_NOUN})",
    "MOVED": "(?:went|went back|travelled|journeyed|moved)",
    "TOOK": "(?:got|took|grabbed|picked up)",
    "DROPPED": "(?:dropped|left|discarded|put down|let go of)",
    "GAVE": "(?:gave|handed|passed)",
    "AN": "(?:a|an)",
    "THERE": "(?: there)?",
    "LAST": "(?: last)?",
    "THEN": "(?:Then|Afterwards|After that|Following that)",
    "TIME": "([Yy]esterday|[Tt]his (?:morning|afternoon|evening))",
    "DIRECTION": "(north|south|east|west)",
    "PLACED": "(above|below|to the left of|to the right of)",
}

# A form is its kind, and a sentence in which words in capitals stand for a slot.
MOVED = ("moved", "PERSON MOVED to the NOUN.")
TOOK = ("took", "PERSON TOOK the NOUNTHERE.")
DROPPED = ("dropped", "PERSON DROPPED the NOUNTHERE.")
GAVE = ("gave", "PERSON GAVE the NOUN to PERSON.")
GAVE_TO = ("gave to", "PERSON GAVE PERSON the NOUN.")
IS_IN = ("is in", "PERSON is in the NOUN.")
WHERE_IS = ("where is", "Where is PERSON?")
IS_IT_IN = ("is it in", "Is PERSON in the NOUN?")
IS_A = ("is a", "PERSON is AN NOUN.")
IS = ("is", "PERSON is NOUN.")


class UnknownForm(ValueError):
    """A sentence that has none of a task's forms.

    Attributes:
      sentence: as it stands.
    """

    def __init__(self, sentence: str):
        super().__init__(f"no sentence of this task: {sentence!r}")
        self.sentence = sentence


class Grammar:
    """The forms that the sentences of a task may have; the first that fits is taken."""

    def __init__(self, *forms: tuple[str, str]):
        self._forms = [(kind, re.compile(_pattern(form))) for kind, form in forms]

    def read(self, sentence: str) -> tuple[str, ...]:
        """What is said.

        Args:
          sentence: a statement or a question, without blanks around it.

        Returns:
          The kind of its form, then the words in the form's slots, in order.

        Raises:
          UnknownForm: it has none of the forms.
        """
        for kind, pattern in self._forms:
            if found := pattern.fullmatch(sentence):
                return (kind, *found.groups())
        raise UnknownForm(sentence)


def only(found: set[str], question: str) -> str:
    """The one answer that was found.

    Raises:
      ValueError: there is none, or more than one.
    """
    if len(found) != 1:
        raise ValueError(f"the text gives {' and '.join(sorted(found)) or 'no answer'}: {question!r}")
    return next(iter(found))


def people(names: str) -> list[str]:
    """The names in the slot PEOPLE."""
    return re.split(r",? and |, ", names)


def _pattern(form: str) -> str:
    return re.sub("|".join(_SLOTS), lambda slot: _SLOTS[slot[0]], re.sub(r"([.?])", r"\\\1", form))
