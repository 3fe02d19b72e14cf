"""Several processes of one command: who writes, who decides, and that all of them are there.

Process 0 writes every file and takes every decision that depends on a clock or a disk; the others are told. What is
told goes through JAX's coordination service, so that no device waits for it. A process alone decides and writes as if
nothing of this were there.

All processes call these functions in the same order, each of them, or none.
"""

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cd_jax.errors import Interrupted, RequestError, RunError

# Seconds that processes wait for one another. What process 0 does for all may take as long as it wants to: that it
# died is told by the service.
MEETING = 600
_SLICE = 60
_ENDED = "cd_jax/ended"
# For the others to come to the same end by themselves, as they do where all see the same error.
_GRACE = 5.0


@dataclasses.dataclass
class _Here:
    """This process among the others.

    Attributes:
      index: its number.
      count: of all of them.
      client: of the coordination service; None for a process alone.
      turns: calls so far, which number what is told.
      alone: whether it does something for which the others wait.
      leaving: whether it ends by itself.
    """

    index: int = 0
    count: int = 1
    client: Any = None
    turns: int = 0
    alone: bool = False
    leaving: bool = False


_here = _Here()


def join(index: int, count: int, client: Any, end: Callable[[str, int], None]) -> None:
    """Takes this process for one of several.

    Args:
      index: its number.
      count: of all of them.
      client: of JAX's coordination service.
      end: ends this process, with what is to be said and a status, since another one has failed.
    """
    global _here
    _here = _Here(index, count, client)
    if count > 1:
        threading.Thread(target=_watch, args=(end,), daemon=True).start()


def index() -> int:
    """Of this process."""
    return _here.index


def count() -> int:
    """Of all processes."""
    return _here.count


def is_first() -> bool:
    """Whether this is process 0, which writes."""
    return _here.index == 0


def is_alone() -> bool:
    """Whether this process decides for itself: there are no others, or they wait for it."""
    return _here.count == 1 or _here.alone


def _key(name: str) -> str:
    _here.turns += 1
    return f"cd_jax/{_here.turns}/{name}"


# Meeting


def meet(name: str, seconds: float = MEETING) -> None:
    """Waits until all processes are here.

    Raises:
      RunError: some did not come in time; names them, as far as the service does.
    """
    if is_alone():
        return
    try:
        _here.client.wait_at_barrier(_key(name), int(1000 * seconds))
    except Exception as error:
        raise RunError(f"process {_here.index} has waited {seconds:g} s at {name!r}: {_said(error)}") from error


def decide(name: str, value: Any) -> Any:
    """What process 0 says; `value`, as JSON has it, of the others does not count.

    Raises:
      RunError: process 0 did not say it in time.
    """
    if is_alone():
        return value
    key = _key(name)
    if is_first():
        _here.client.key_value_set(key, json.dumps(value))
        return value
    try:
        return json.loads(_here.client.blocking_key_value_get(key, 1000 * MEETING))
    except Exception as error:
        raise RunError(f"process 0 has not said {name!r} within {MEETING} s: {_said(error)}") from error


def first(name: str, work: Callable[[], Any]) -> Any:
    """Process 0 does some work, for which the others wait; within it, it is a process alone.

    Returns:
      What the work returns; None for the others.

    Raises:
      RequestError: process 0 has raised it, in all processes; so are RunError, and Interrupted.
    """
    if is_alone():
        return work()
    key = _key(name)
    if not is_first():
        _raise(_awaited(key))
        return None
    _here.alone, told = True, ["RunError", f"process 0 has failed at {name!r}"]
    try:
        found = work()
        told = []
        return found
    except (RequestError, RunError) as error:
        told = [type(error).__name__, str(error)]
        raise
    except Interrupted as stopped:
        told = ["Interrupted", stopped.asked.name, stopped.kept]
        raise
    finally:
        _here.alone = False
        _here.client.key_value_set(key, json.dumps(told))


def _awaited(key: str) -> list[str]:
    while True:
        try:
            return json.loads(_here.client.blocking_key_value_get(key, 1000 * _SLICE))
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise RunError(f"process 0 does not answer: {_said(error)}") from error


def _raise(told: list[str]) -> None:
    if not told:
        return
    kind, *said = told
    if kind == "Interrupted":
        raise Interrupted(signal.Signals[said[0]], said[1])
    raise {"RequestError": RequestError, "RunError": RunError}[kind](said[0])


def agree(what: str, values: Callable[[], Mapping[str, Any]], mend: str) -> None:
    """Looks whether all processes have the same.

    Args:
      what: they have, for the error.
      values: makes them, by name, of what JSON knows; not called where there is nobody to compare with.
      mend: what to do where they differ.

    Raises:
      RequestError: in all processes; the first difference is named.
    """
    if is_alone():
        return
    key = _key(what)
    mine = {name: json.dumps(value, sort_keys=True, default=str) for name, value in values().items()}
    _here.client.key_value_set(f"{key}/{_here.index}", json.dumps(mine))

    def compare() -> None:
        for other in range(1, _here.count):
            found = json.loads(_here.client.blocking_key_value_get(f"{key}/{other}", 1000 * MEETING))
            for name in sorted(mine.keys() | found.keys()):
                if mine.get(name) != found.get(name):
                    raise RequestError(
                        f"{what}: process {other} has {name} = {found.get(name, 'nothing')}, process 0 has "
                        f"{mine.get(name, 'nothing')}; {mend}"
                    )

    first(f"compare {what}", compare)


def _said(error: Exception) -> str:
    return " ".join(str(error).split("[type.googleapis")[0].split())[:300]


# The end


def fail(text: str, status: int) -> None:
    """Tells the others that this process ends, and why; they end, too. Where all fail alike, each has its own word."""
    if _here.count == 1:
        return
    _here.leaving = True
    try:
        _here.client.key_value_set(_ENDED, json.dumps([_here.index, text, status]))
    except Exception:
        return  # Another one was first, or nobody is there any more.
    _outlast()


def leave() -> None:
    """At the end of what all have done: waits for the others, so that none takes the rest for dead."""
    if _here.count == 1:
        return
    meet("the end")
    _here.leaving = True
    if is_first():
        _here.client.key_value_set(_ENDED, json.dumps([0, "", 0]))
    _outlast()


def _outlast() -> None:
    """With process 0 the service ends, from which the others have yet to hear of it."""
    if is_first():
        time.sleep(1.0)


def _watch(end: Callable[[str, int], None]) -> None:
    """Ends this process where another one says that it has failed."""
    here = _here
    while True:
        try:
            index, text, status = json.loads(here.client.blocking_key_value_get(_ENDED, 1000 * 3600))
            break
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                return
    if here.leaving or not status or index == here.index:
        return
    threading.Event().wait(_GRACE)
    if not here.leaving:
        end(f"process {index}: {text}", status)


def reached_sync_point() -> bool:
    """Whether a process was told to end, on which all have agreed here; all call it as often."""
    from jax.experimental import multihost_utils

    _here.turns += 1
    return multihost_utils.reached_preemption_sync_point(_here.turns)


def log_file(model_dir: str | None) -> str:
    """Where this process's native messages go, and all that it prints where it is not the first.

    Args:
      model_dir: of the run; of a remote one, and of none, it lies in the working folder.
    """
    folder = "." if not model_dir or "://" in model_dir else model_dir
    return os.path.join(folder, "logs", f"process-{_here.index}.log")
