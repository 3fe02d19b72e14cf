"""Tasks 9 to 14: where people are, said with negations, alternatives, pronouns, conjunctions and times of the day."""

from collections.abc import Iterator, Sequence

from cd_jax.tasks.babi.reasoners.text import IS_IN, IS_IT_IN, MOVED, WHERE_IS, Grammar, people

_NEGATION = Grammar(
    ("is not in", "PERSON is no longer in the NOUN."), ("is not in", "PERSON is not in the NOUN."), IS_IN, MOVED
)
_ALTERNATIVES = Grammar(
    ("either", "PERSON is either in the NOUN or the NOUN."),
    ("either of these", "PERSON is either in the NOUN or in the NOUN."),
    IS_IN,
    MOVED,
)
_PRONOUN = Grammar(("again", "THEN (he|she) MOVED to the NOUN."), ("again", "(He|She) then MOVED to the NOUN."), MOVED)
_PAIR = ("moved", "PEOPLE MOVED to the NOUN.")
_CONJUNCTION = Grammar(_PAIR)
_PRONOUN_OF_PAIR = Grammar(("again", "THEN (they) MOVED to the NOUN."), _PAIR)
_TIMED = Grammar(("when first", "TIME PERSON MOVED to the NOUN."), ("when last", "PERSON MOVED to the NOUN TIME."))

_IS_IN = Grammar(IS_IT_IN)
_WHERE_IS = Grammar(WHERE_IS)
_WHERE_BEFORE = Grammar(("where before", "Where was PERSON before the NOUN?"))

_TIMES = ("yesterday", "this morning", "this afternoon", "this evening")


def negation(statements: Sequence[str], question: str) -> str:
    """Task 9: `Is Mary in the kitchen?`, by the last statement about her, which may say where she is not."""
    _, who, place = _IS_IN.read(question)
    kind, *places = _said(statements, _NEGATION, who)[-1]
    if kind != "is not in":
        return "yes" if place in places else "no"
    if place not in places:
        raise ValueError(f"the text tells only that {who} is not in the {places[0]}: {question!r}")
    return "no"


def alternatives(statements: Sequence[str], question: str) -> str:
    """Task 10: `Is Mary in the kitchen?`, by the last statement about her, which may leave it open: `maybe`.

    What was said before is over with it, as in the files, except where it has the form `either in the kitchen or in the
    hall`: that is of today's generator, in which of these places she is in one where she could have been before.
    """
    _, who, place = _IS_IN.read(question)
    possible: list[str] = []
    for kind, *places in _said(statements, _ALTERNATIVES, who):
        possible = _narrowed(possible, places) if kind == "either of these" else places
    if place not in possible:
        return "no"
    return "yes" if len(possible) == 1 else "maybe"


def pronoun(statements: Sequence[str], question: str) -> str:
    """Task 11: `Where is Mary?` where `she` is who moved in the statement before."""
    return _where_is(statements, _PRONOUN, question)


def conjunction(statements: Sequence[str], question: str) -> str:
    """Task 12: `Where is Mary?` where several people move together."""
    return _where_is(statements, _CONJUNCTION, question)


def pronoun_of_pair(statements: Sequence[str], question: str) -> str:
    """Task 13: `Where is Mary?` where `they` are who moved in the statement before."""
    return _where_is(statements, _PRONOUN_OF_PAIR, question)


def times(statements: Sequence[str], question: str) -> str:
    """Task 14: `Where was Mary before the kitchen?`: before the latest time at which she went there."""
    _, who, place = _WHERE_BEFORE.read(question)
    places: dict[str, str] = {}
    for statement in statements:
        time, mover, goal = _timed(statement)
        if mover == who and places.setdefault(time, goal) != goal:
            raise ValueError(f"{who} went to the {places[time]} and to the {goal} {time}: {statement!r}")
    answer = before = None
    for time in _TIMES:
        here = places.get(time, before)
        if here == place != before:
            answer = before
        before = here
    if answer is None:
        raise ValueError(f"the text does not tell where {who} was before the {place}")
    return answer


def _said(statements: Sequence[str], grammar: Grammar, who: str) -> list[tuple[str, ...]]:
    """The kind and the places of each statement about a person, of which there is one at least."""
    read = [grammar.read(statement) for statement in statements]
    said = [(kind, *places) for kind, about, *places in read if about == who]
    if not said:
        raise ValueError(f"the text does not tell where {who} is")
    return said


def _narrowed(known: list[str], told: list[str]) -> list[str]:
    """The places told that were possible; where none was, the generator takes the other for false, so the last."""
    if not known:
        return told
    return [place for place in told if place in known] or told[-1:]


def _where_is(statements: Sequence[str], grammar: Grammar, question: str) -> str:
    _, who = _WHERE_IS.read(question)
    here = {person: place for movers, place in _moves(statements, grammar) for person in movers}
    if who not in here:
        raise ValueError(f"the text does not tell where {who} is")
    return here[who]


def _moves(statements: Sequence[str], grammar: Grammar) -> Iterator[tuple[list[str], str]]:
    movers: list[str] = []
    pronouns: dict[str, str] = {}
    for statement in statements:
        kind, whom, place = grammar.read(statement)
        if kind == "moved":
            movers = people(whom)
        elif not movers:
            raise ValueError(f"nobody moved before whom {whom.lower()!r} could mean: {statement!r}")
        elif pronouns.setdefault(movers[0], whom.lower()) != whom.lower():
            raise ValueError(f"{movers[0]} was called {pronouns[movers[0]]!r} before: {statement!r}")
        yield movers, place


def _timed(statement: str) -> tuple[str, str, str]:
    """The time, who moved, and to which place."""
    kind, *words = _TIMED.read(statement)
    time, who, place = words if kind == "when first" else (words[2], *words[:2])
    return time.lower(), who, place
