"""Filters on the updates of a directory: what is kept stays in `updates.jsonl`, the rest goes to `rejected.jsonl`."""

import collections
from collections.abc import Callable, Sequence

from etils import epath

from cd_jax.rundir import journal
from cd_jax.rundir import updates as store
from cd_jax.types import Example, Update
from cd_jax.update.filters.filter import Filter, clean


def said(path: epath.Path) -> list[Update]:
    """All that was said, kept or rejected: nothing of it is asked for again."""
    rejected = path.with_name(store.REJECTED)
    return [update for file in (path, rejected) for update, _ in store.read_with_lines(file)]


def drop(path: epath.Path, unwanted: Callable[[Update], bool]) -> int:
    """Takes updates out of both files.

    Args:
      path: of the updates.
      unwanted: which.

    Returns:
      How many there were.

    Raises:
      RequestError: a file is malformed.
      RunError: a file cannot be written.
    """
    dropped = 0
    for file in (path, path.with_name(store.REJECTED)):
        there = store.read_with_lines(file)
        left = [line for update, line in there if not unwanted(update)]
        if len(left) < len(there):
            journal.write(file, left)
        dropped += len(there) - len(left)
    return dropped


def apply(path: epath.Path, examples: Sequence[Example], filters: Sequence[Filter]) -> None:
    """Parts all that was said anew; with other filters than before what was rejected may come back.

    Args:
      path: of the updates.
      examples: that they explain.
      filters: that decide; with none, all is kept.

    Raises:
      RequestError: a file is malformed.
      RunError: a file cannot be written.
    """
    rejected = path.with_name(store.REJECTED)
    if not filters and not rejected.exists():
        return
    store.repair(path)
    there = {file: store.read_with_lines(file) for file in (path, rejected)}
    # A kill between the two files leaves an update in both.
    lines = {(one.example_id, one.sample): (one, line) for pairs in there.values() for one, line in pairs}
    place = {example.example_id: number for number, example in enumerate(examples)}
    order = sorted(lines.values(), key=lambda pair: (pair[0].round, place[pair[0].example_id], pair[0].sample))
    cleaned = clean({example.example_id: example for example in examples}, [update for update, _ in order], filters)
    reasons = {(one.example_id, one.sample): one.reason for one in cleaned.rejected}
    _tell(len(order), cleaned.rejected)
    if {(one.example_id, one.sample) for one, _ in there[rejected]} == reasons.keys() and not _overlap(there.values()):
        return
    parted: dict[bool, list[dict]] = {True: [], False: []}
    for update, line in order:
        reason = reasons.get((update.example_id, update.sample))
        parted[reason is None].append(line if reason is None else line | {store.REASON: reason})
    journal.write(rejected, parted[False])
    journal.write(
        path, [{name: value for name, value in line.items() if name != store.REASON} for line in parted[True]]
    )


def _overlap(files) -> bool:
    found = collections.Counter((one.example_id, one.sample) for pairs in files for one, _ in pairs)
    return max(found.values(), default=0) > 1


def _tell(number: int, rejected: Sequence[Update]) -> None:
    kinds = collections.Counter(update.reason.partition(":")[0] for update in rejected)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"[distill] {len(rejected)} of {number} updates are rejected{f': {told}' if told else ''}", flush=True)
