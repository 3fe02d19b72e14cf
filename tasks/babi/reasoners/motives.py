"""Task 20: where people will go, and why they did what they did."""

from collections.abc import Sequence

from cd_jax.tasks.babi.reasoners.text import IS, MOVED, TOOK, Grammar

_DEEDS = Grammar(IS, MOVED, TOOK)
_QUESTIONS = Grammar(
    ("where", "Where will NAME go?"),
    ("moved", "Why did NAME go to the NOUN?"),
    ("took", "Why did NAME get the NOUN?"),
)

# What these stories take for known. Others of the story who went somewhere for the same motive say more than this.
_GOALS = {"hungry": "kitchen", "thirsty": "kitchen", "tired": "bedroom", "bored": "garden"}


def motive(statements: Sequence[str], question: str, whole: bool = True) -> str:
    """Task 20: `Where will jason go?`, `Why did jason go to the kitchen?` and `Why did jason get the milk?`.

    Of part of a story, not the whole, the question itself may tell what he did: of the latest motive that is told.
    """
    asked, who, *what = _QUESTIONS.read(question)
    motives: dict[str, str] = {}
    goals: dict[str, str] = {}
    why = None
    told = whole
    for statement in statements:
        kind, name, word = _DEEDS.read(statement)
        name = name.lower()
        if kind == "is":
            motives[name] = word
        elif kind == "moved" and name in motives:
            goals.setdefault(motives[name], word)
        if kind == asked and [word] == what and name == who.lower():
            why = motives.get(name)
            told = True
    answer = why if told else motives.get(who.lower())
    if asked == "where":
        of_now = motives.get(who.lower(), "")
        answer = goals.get(of_now) or _GOALS.get(of_now)
    if answer is None:
        raise ValueError(f"the text does not tell: {question!r}")
    return answer
