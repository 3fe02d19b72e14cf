"""Tasks 1, 2, 3, 5, 6, 7 and 8: people who walk about, take and drop things, and give them to one another."""

from collections.abc import Sequence

from cd_jax.tasks.babi.reasoners.text import DROPPED, GAVE, GAVE_TO, IS_IT_IN, MOVED, TOOK, WHERE_IS, Grammar

_WALKING = Grammar(MOVED)
_CARRYING = Grammar(MOVED, TOOK, DROPPED)
_GIVING = Grammar(MOVED, TOOK, DROPPED, GAVE, GAVE_TO)

_WHERE_IS = Grammar(WHERE_IS)
_WHERE_IS_THING = Grammar(("where is", "Where is the NOUN?"))
_WHERE_BEFORE = Grammar(("where before", "Where was the NOUN before the NOUN?"))
_IS_IN = Grammar(IS_IT_IN)
_HOW_MANY = Grammar(
    ("none", "How many objects is PERSON carrying?"),
    ("zero", "How many objects is PERSON holding?"),
)
_WHAT_IS_CARRIED = Grammar(("what", "What is PERSON carrying?"), ("what", "What is PERSON holding?"))
_GIFTS = Grammar(
    ("gift", "What did PERSON give to PERSONLAST?"),
    ("taker of", "Who did PERSON give the NOUN toLAST?"),
    ("giver to", "Who gave the NOUN to PERSONLAST?"),
    ("giver", "Who gave the NOUNLAST?"),
    ("taker", "Who received the NOUNLAST?"),
)

# Of none, the word depends on the question.
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


class World:
    """Where people are and what they hold, as far as the statements so far tell.

    Attributes:
      place: of each person whose place is known.

    Args:
      grammar: of the statements that may be heard.
      whole: whether they are all that happens; otherwise what lies between them may be missing, so that nothing in them
        contradicts another.
    """

    def __init__(self, grammar: Grammar, whole: bool = True) -> None:
        self._grammar = grammar
        self._whole = whole
        self.place: dict[str, str] = {}
        self._holder: dict[str, str | None] = {}
        self._lies: dict[str, str] = {}
        self._had: dict[str, dict[str, None]] = {}

    def hear(self, statement: str) -> None:
        """Let what is said happen.

        Raises:
          ValueError: the statement has none of the grammar's forms, or contradicts what was said before.
        """
        said = self._grammar.read(statement)
        try:
            self._happen(said)
        except ValueError as contradiction:
            raise ValueError(f"{contradiction}: {statement!r}") from None

    def begin(self, statements: Sequence[str]) -> None:
        """Let everybody have from the start that of which the first that is told is that they part with it."""
        for statement in statements:
            match self._grammar.read(statement):
                case "took", _, thing:
                    self._holder.setdefault(thing, None)
                case ("dropped", who, thing) | ("gave", who, thing, _) | ("gave to", who, _, thing):
                    self._holder.setdefault(thing, who)

    def whereabouts(self, thing: str) -> str | None:
        """The place of a thing, None where it is not known."""
        holder = self._holder.get(thing)
        return self._lies.get(thing) if holder is None else self.place.get(holder)

    def held_by(self, who: str) -> list[str]:
        """The things that a person holds, in the order in which they first came into these hands."""
        if not self._whole and who not in self._had:
            raise ValueError(f"the text does not tell of anything in the hands of {who}")
        # What was put down and taken up again keeps its first rank: so the released files list it.
        return [thing for thing in self._had.get(who, ()) if self._holder[thing] == who]

    def _happen(self, said: tuple[str, ...]) -> None:
        match said:
            case "moved", who, place:
                self.place[who] = place
            case "took", who, thing:
                self._take(who, thing)
            case "dropped", who, thing:
                self._let_go(who, thing)
            case ("gave", giver, thing, taker) | ("gave to", giver, taker, thing):
                self._let_go(giver, thing)
                self._take(taker, thing)

    def _take(self, who: str, thing: str) -> None:
        holder = self._holder.get(thing)
        if holder is not None and self._whole:
            raise ValueError(f"{who} cannot have the {thing}, which {holder} holds")
        lies = self._lies.pop(thing, None)
        if lies is not None and self.place.setdefault(who, lies) != lies:
            if self._whole:
                raise ValueError(f"{who} is in the {self.place[who]}, the {thing} in the {lies}")
            # One of the two was moved, which is not told.
            del self.place[who]
        self._holder[thing] = who
        self._had.setdefault(who, {})[thing] = None

    def _let_go(self, who: str, thing: str) -> None:
        if self._holder.get(thing) != who and self._whole:
            raise ValueError(f"{who} does not hold the {thing}")
        self._holder[thing] = None
        self._had.setdefault(who, {})
        self._lies.pop(thing, None)
        if who in self.place:
            self._lies[thing] = self.place[who]


def where_is_person(statements: Sequence[str], question: str) -> str:
    """Task 1: `Where is Mary?`."""
    _, who = _WHERE_IS.read(question)
    return _place(_after(statements, _WALKING), who)


def where_is_thing(statements: Sequence[str], question: str, whole: bool = True) -> str:
    """Task 2: `Where is the football?`: where its holder is, or where it was dropped."""
    _, thing = _WHERE_IS_THING.read(question)
    place = _after(statements, _CARRYING, whole).whereabouts(thing)
    if place is None:
        raise ValueError(f"the text does not tell where the {thing} is")
    return place


def where_before(statements: Sequence[str], question: str, whole: bool = True) -> str:
    """Task 3: `Where was the football before the kitchen?`: before it came there for the last time."""
    _, thing, place = _WHERE_BEFORE.read(question)
    world = World(_CARRYING, whole)
    if not whole:
        world.begin(statements)
    here = before = answer = None
    for statement in statements:
        world.hear(statement)
        now = world.whereabouts(thing)
        if now is not None and now != here:
            before, here = here, now
            if here == place:
                answer = before
    if answer is None:
        raise ValueError(f"the text does not tell where the {thing} was before the {place}")
    return answer


def gift(statements: Sequence[str], question: str) -> str:
    """Task 5: who gave what to whom; the latest gift of which the question may speak is meant."""
    asked = _GIFTS.read(question)
    answer = None
    for statement in statements:
        match _GIVING.read(statement):
            case ("gave", giver, thing, taker) | ("gave to", giver, taker, thing):
                answer = _asked_of_gift(asked, giver, thing, taker) or answer
    if answer is None:
        raise ValueError(f"the text tells of no such gift: {question!r}")
    return answer


def _asked_of_gift(asked: tuple[str, ...], giver: str, thing: str, taker: str) -> str | None:
    """What the question asks of a gift; None where it speaks of others."""
    speaks_of, answer = {
        "gift": ((giver, taker), thing),
        "taker of": ((giver, thing), taker),
        "giver to": ((thing, taker), giver),
        "giver": ((thing,), giver),
        "taker": ((thing,), taker),
    }[asked[0]]
    return answer if asked[1:] == speaks_of else None


def is_in(statements: Sequence[str], question: str, whole: bool = True) -> str:
    """Task 6: `Is Mary in the kitchen?`."""
    _, who, place = _IS_IN.read(question)
    return "yes" if _place(_after(statements, _CARRYING, whole), who) == place else "no"


def count(statements: Sequence[str], question: str, whole: bool = True) -> str:
    """Task 7: `How many objects is Mary carrying?`, in a word.

    Of none it is the question's word that decides: the files ask what she is `carrying`, and answer `none`, today's
    generator asks what she is `holding`, and answers `zero`.
    """
    nothing, who = _HOW_MANY.read(question)
    number = len(_after(statements, _GIVING, whole).held_by(who))
    if number > len(_NUMBERS):
        raise ValueError(f"{who} carries {number} things, and this task counts to {_NUMBERS[-1]}")
    return (nothing, *_NUMBERS)[number]


def what_is_carried(statements: Sequence[str], question: str, whole: bool = True) -> str:
    """Task 8: `What is Mary carrying?`, in the order of the files, where that of today's generator is of no meaning."""
    _, who = _WHAT_IS_CARRIED.read(question)
    return ",".join(_after(statements, _GIVING, whole).held_by(who)) or "nothing"


def _after(statements: Sequence[str], grammar: Grammar, whole: bool = True) -> World:
    world = World(grammar, whole)
    for statement in statements:
        world.hear(statement)
    return world


def _place(world: World, who: str) -> str:
    if who not in world.place:
        raise ValueError(f"the text does not tell where {who} is")
    return world.place[who]
