"""What lacks updates gets them, from whatever policy writes them; a run that was broken off goes on where it was."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from cd_jax.learning import cleaning
from cd_jax.learning.progress import ProgressLine
from cd_jax.rundir import hosts, interrupt
from cd_jax.rundir import updates as store
from cd_jax.types import Attempt, Example, Update
from cd_jax.update.filters.filter import Filter
from cd_jax.update.policy import Asked, UpdatePolicy

_OFTEN = 0.2  # seconds; what takes longer is on disk as soon as it is there


def extend(
    path: epath.Path,
    policy: UpdatePolicy,
    examples: Sequence[Example],
    attempts: Mapping[str, Sequence[Attempt]],
    number: int = 0,
    before: Sequence[Update] = (),
    filters: Sequence[Filter] = (),
) -> list[Update]:
    """Has a policy write what is missing of a round's updates; what it has said is on disk before it says more.

    Args:
      path: of the updates.
      policy: writes them.
      examples: that are explained.
      attempts: the solver's at them, by `example_id`.
      number: of the round.
      before: updates of earlier rounds, wherever they stand.
      filters: of what is written.

    Returns:
      All that stand in the file in the end.

    Raises:
      RequestError: the file is malformed.
      RunError: it cannot be written, or the policy cannot be asked.
    """
    hosts.first("updates", lambda: _extend(path, policy, examples, attempts, number, before, filters))
    return store.read(path) if path.exists() else []


def _extend(
    path: epath.Path,
    policy: UpdatePolicy,
    examples: Sequence[Example],
    attempts: Mapping[str, Sequence[Attempt]],
    number: int,
    before: Sequence[Update],
    filters: Sequence[Filter],
) -> None:
    waiting = lacking(path, policy, examples, attempts, number, before)
    line, added, kept_at = ProgressLine("distill", len(waiting)), 0, time.monotonic()
    held: list[Update] = []
    try:
        for done, updates in enumerate(policy.write(waiting, number, path.parent), 1):
            held += updates
            # What costs nothing, or is kept elsewhere, comes too fast for the disk.
            if time.monotonic() - kept_at > _OFTEN:
                store.append(path, held)
                added, held, kept_at = added + len(held), [], time.monotonic()
            if line.is_due() or done == len(waiting):
                line.report(done, 1, f"teacher {policy.name}")
            interrupt.check(f"{added + len(held)} updates of this call are in {path}")
    finally:
        if held:
            store.append(path, held)
    cleaning.apply(path, examples, filters)


def lacking(
    path: epath.Path,
    policy: UpdatePolicy,
    examples: Sequence[Example],
    attempts: Mapping[str, Sequence[Attempt]],
    number: int = 0,
    before: Sequence[Update] = (),
    ignored: Callable[[Update], bool] = lambda update: False,
) -> list[Asked]:
    """The examples that lack updates in a round; see `extend`. Those that are ignored are as good as not there."""
    store.repair(path)
    known: dict[str, list[Update]] = {}
    for update in itertools.filterfalse(ignored, (*cleaning.said(path), *before)):
        group = known.setdefault(update.example_id, [])
        if update not in group:
            group.append(update)
    asked = [Asked(one, attempts.get(one.example_id, ()), known.get(one.example_id, ())) for one in examples]
    return [one for one in asked if sum(update.round == number for update in one.known) < policy.wanted]
