"""What a target says, `u answer: y`, and how it is read again: the one place that knows the marker."""

import re

MARKER = "answer:"
# Greedy and dot-matches-newline: the group is what follows the last `answer:`, for an explanation may hold one too.
_PATTERN = re.compile(r"(.*)answer\s*:(.*)", re.IGNORECASE | re.DOTALL)


def answer(expected: str) -> str:
    """The end of every target: `answer: y`."""
    return f"{MARKER} {expected}"


def has_answer(generation: str) -> bool:
    """Whether an answer is marked in it, of however little text."""
    return _PATTERN.match(generation) is not None


def parse_answer(generation: str) -> str:
    """The text after the last `answer:` (any case), stripped; empty where there is none."""
    match = _PATTERN.match(generation)
    return match[2].strip() if match else ""


def parse_update(generation: str) -> str:
    """The explanation: the text before the last `answer:`, stripped; all of it where there is none."""
    match = _PATTERN.match(generation)
    return (match[1] if match else generation).strip()
