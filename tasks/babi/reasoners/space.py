"""Tasks 4, 17, 18 and 19: rooms and the ways between them, shapes, and sizes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from cd_jax.tasks.babi.reasoners.text import Grammar, only

_ROOMS = Grammar(("beside", "The NOUN is DIRECTION of the NOUN."), ("from", "The NOUN is DIRECTION the NOUN."))
_SHAPES = Grammar(("placed", "The NOUN is PLACED the NOUN."))
_SIZES = Grammar(("fits", "The NOUN fits inside the NOUN."), ("bigger", "The NOUN is bigger than the NOUN."))

_NEIGHBOUR = Grammar(
    ("what is", "What is DIRECTION of the NOUN?"),
    ("what of", "What is the NOUN DIRECTION of?"),
    ("what is", "What is DIRECTION the NOUN?"),
    ("what of", "What is the NOUN DIRECTION?"),
)
_IS_PLACED = Grammar(("placed", "Is the NOUN PLACED the NOUN?"))
_COMPARED = Grammar(
    ("fits", "Does the NOUN fit in the NOUN?"),
    ("bigger", "Is the NOUN bigger than the NOUN?"),
    ("bigger", "Is the NOUN bigger than NOUN?"),
)
_WAY = Grammar(("way", "How do you go from the NOUN to the NOUN?"), ("way", "What is the path from NOUN to NOUN?"))

_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
_MORE = {"above", "to the right of", "bigger"}
_UPRIGHT = {"above", "below"}


class _Order:
    """What is less than, and equal to, what."""

    def __init__(self) -> None:
        self._above: dict[str, list[tuple[str, bool]]] = defaultdict(list)

    def less(self, lower: str, higher: str) -> None:
        self._above[lower].append((higher, True))

    def equal(self, one: str, other: str) -> None:
        self._above[one].append((other, False))
        self._above[other].append((one, False))

    def is_less(self, one: str, other: str, question: str) -> bool:
        """Whether `one` is less than `other`; ValueError where the text does not tell, or tells more than one thing."""
        from_one = self._upwards(one)
        less = (other, True) in from_one
        equal = (other, False) in from_one
        more = (one, True) in self._upwards(other)
        if less + equal + more != 1:
            tells = "contradicts itself on" if less or more else "does not tell"
            raise ValueError(f"the text {tells} how the {one} compares with the {other}: {question!r}")
        return less

    def _upwards(self, start: str) -> set[tuple[str, bool]]:
        """All that is not less than `start`, and whether it is more."""
        reached = {(start, False)}
        ahead = [(start, False)]
        while ahead:
            thing, strictly = ahead.pop()
            new = {(above, strictly or more) for above, more in self._above[thing]} - reached
            reached |= new
            ahead.extend(new)
        return reached


def neighbour(statements: Sequence[str], question: str) -> str:
    """Task 4: `What is north of the garden?` and `What is the garden north of?`, of neighbours alone."""
    kind, *words = _NEIGHBOUR.read(question)
    direction, room = words if kind == "what is" else (_OPPOSITE[words[1]], words[0])
    beside = _rooms(statements)[room]
    return only({other for other, towards in beside.items() if towards == direction}, question)


def is_placed(statements: Sequence[str], question: str) -> str:
    """Task 17: `Is the square above the sphere?`; what is above something is neither left nor right of it."""
    _, shape, placed, other = _IS_PLACED.read(question)
    order = _Order()
    for statement in statements:
        _, one, said, two = _SHAPES.read(statement)
        if (said in _UPRIGHT) == (placed in _UPRIGHT):
            order.less(*_ascending(one, said, two))
        else:
            order.equal(one, two)
    return _yes(order.is_less(*_ascending(shape, placed, other), question))


def is_bigger(statements: Sequence[str], question: str) -> str:
    """Task 18: `Is the box bigger than the chest?` and `Does the box fit in the chest?`."""
    order = _Order()
    for statement in statements:
        said, one, two = _SIZES.read(statement)
        order.less(*_ascending(one, said, two))
    asked, thing, other = _COMPARED.read(question)
    return _yes(order.is_less(*_ascending(thing, asked, other), question))


def way(statements: Sequence[str], question: str) -> str:
    """Task 19: `How do you go from the garden to the office?`, by the shortest way: `s,w`.

    In the files, what `is north of the garden` is reached by going north from the garden. Today's generator turns this
    about: where a garden `is north the hall`, the hall is reached by going north from the garden.
    """
    _, start, goal = _WAY.read(question)
    rooms = _rooms(statements, starts_first=True)
    before: dict[str, tuple[str, str]] = {}
    forked: set[str] = set()
    layer = [start]
    while layer and goal not in before:
        reached: dict[str, tuple[str, str]] = {}
        for room in layer:
            for other, towards in rooms[room].items():
                if other == start or other in before:
                    continue
                if other in reached or room in forked:
                    forked.add(other)
                reached[other] = (room, towards)
        before |= reached
        layer = list(reached)
    # The maps of the released files are trees: nothing there says which of several ways would be meant.
    if goal not in before or goal in forked:
        raise ValueError(f"there is {'more than one' if goal in forked else 'no'} shortest way: {question!r}")
    return ",".join(reversed(list(_steps_back(before, start, goal))))


def _steps_back(before: dict[str, tuple[str, str]], start: str, goal: str) -> Iterator[str]:
    while goal != start:
        goal, towards = before[goal]
        yield towards[0]


def _rooms(statements: Sequence[str], starts_first: bool = False) -> dict[str, dict[str, str]]:
    """For each room those beside it, and where.

    Args:
      statements: about two rooms each.
      starts_first: whether what `is north the garden` is where one sets out, to the north, for the garden.
    """
    rooms: dict[str, dict[str, str]] = defaultdict(dict)
    for statement in statements:
        kind, room, direction, other = _ROOMS.read(statement)
        if starts_first and kind == "from":
            room, other = other, room
        if rooms[other].setdefault(room, direction) != direction:
            raise ValueError(f"the {room} is {rooms[other][room]} of the {other}, as was said before: {statement!r}")
        rooms[room][other] = _OPPOSITE[direction]
    return rooms


def _ascending(one: str, said: str, other: str) -> tuple[str, str]:
    return (other, one) if said in _MORE else (one, other)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
