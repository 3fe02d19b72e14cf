"""What this machine can hold: whoever asks for more is told, instead of killed by the system without a word."""

import os

from cd_jax.errors import RequestError


def check_room(needed: int, what: str) -> None:
    """Refuses what cannot be held.

    Args:
      needed: bytes of the host's memory.
      what: needs them, and what to do; starts the error, `{}` in it are the bytes.

    Raises:
      RequestError: the machine has less.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise RequestError(
            what.format(f"{needed / 2**30:,.1f} GiB of memory, of which this machine has {there / 2**30:,.1f}")
        )
