"""Damaged copies of a file: what disks, copies and editors make of it."""

import random
from collections.abc import Iterator


def of(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """So many copies of it, each damaged in another way; the same for the same seed.

    Args:
      content: of the file; not empty.
      count: how many.
      seed: of the draws.
    """
    rng = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            rng.choice(_WAYS)(mutant, rng)
        yield bytes(mutant)


def _at(mutant: bytearray, rng: random.Random) -> int:
    return rng.randrange(len(mutant)) if mutant else 0


def _flip(mutant: bytearray, rng: random.Random) -> None:
    if mutant:
        mutant[_at(mutant, rng)] ^= 1 << rng.randrange(8)


def _overwrite(mutant: bytearray, rng: random.Random) -> None:
    at = _at(mutant, rng)
    mutant[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(1, 8))


def _cut(mutant: bytearray, rng: random.Random) -> None:
    del mutant[_at(mutant, rng) :]


def _leave_out(mutant: bytearray, rng: random.Random) -> None:
    at = _at(mutant, rng)
    del mutant[at : at + rng.choice((1, 2, 10, 100))]


def _double(mutant: bytearray, rng: random.Random) -> None:
    at = _at(mutant, rng)
    mutant[at:at] = mutant[at : at + rng.choice((1, 10, 100, 1000))]


def _zero(mutant: bytearray, rng: random.Random) -> None:
    at, size = _at(mutant, rng), rng.choice((1, 16, 512))
    mutant[at : at + size] = bytes(len(mutant[at : at + size]))


# What parsers stumble over.
_ODD = (
    b"NaN", b"-1", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"null", b"true", b"[]", b"{}", b'""', b"0",
    b"\xff\xfe", b"\x00", b"\\ud800", b"\xef\xbb\xbf", b"\r\n", b"\n", b"99999999999999999999", b"-0.0",
    b"\xe2\x80\xa8",
)  # fmt: skip


def _insert(mutant: bytearray, rng: random.Random) -> None:
    at = _at(mutant, rng)
    mutant[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(_ODD)


def _swap_value(mutant: bytearray, rng: random.Random) -> None:
    """Puts something odd in the place of a word or a number."""
    at = _at(mutant, rng)
    start, end = at, at
    while start and chr(mutant[start - 1]).isalnum():
        start -= 1
    while end < len(mutant) and chr(mutant[end]).isalnum():
        end += 1
    mutant[start:end] = rng.choice(_ODD)


_WAYS = (_flip, _overwrite, _cut, _leave_out, _double, _zero, _insert, _swap_value, _swap_value)
