"""The scores of one run: what tells them apart, and how new ones stand beside old ones in results.json."""

import dataclasses
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

# What an entry may say beside the accuracy.
_MEASURED = ("calibration", "gain")
# An entry of `evaluations`: of which parameters it is, what was asked, and how.
_KEY = ("step", "parameters", "role", "task", "split", "sample", "decoding", "memory")


def key(entry: Json) -> str:
    """The same for entries of which the newer one replaces the older one."""
    return repr([_sorted(entry.get(name)) for name in _KEY])


def _sorted(value: Any) -> Any:
    return [(name, _sorted(inner)) for name, inner in sorted(value.items())] if isinstance(value, dict) else value


def merged(before: Sequence[Json], now: Sequence[Json]) -> list[Json]:
    """All of them; of those with the same `key` the newer one, in the place of the older one.

    Entries of `before_settings` give way to one of the same task and number of examples.
    """
    told = {_told(entry) for entry in now}
    kept = {key(entry): entry for entry in before if "sample" in entry or _told(entry) not in told}
    for entry in now:
        # What was measured of the same answers stays, unless it was measured again.
        measured = kept.get(key(entry), {})
        kept[key(entry)] = {name: measured[name] for name in _MEASURED if name in measured} | entry
    return list(kept.values())


def _told(entry: Json) -> tuple[Any, ...]:
    return entry.get("step"), entry.get("role"), entry["task"], entry.get("n")


def before_settings(run: Json) -> list[Json]:
    """Entries about the source and targets of a run that was scored before entries said how they were found."""
    roles = [("source", run.get("source")), *(("target", target) for target in run.get("targets") or [])]
    return [{"role": role, "step": run.get("best_step")} | entry for role, entry in roles if entry]


def newest(evaluations: Sequence[Json], role: str, step: int, parameters: str | None) -> list[Json]:
    """Of each task in that role the last entry about these parameters, without its role."""
    found = {entry["task"]: entry for entry in evaluations if _is_about(entry, role, step, parameters)}
    return [{name: value for name, value in entry.items() if name != "role"} for entry in found.values()]


def of_run(run: Json, role: str) -> list[Json]:
    """What a run's results say of its best parameters: all evaluations, where they are recorded."""
    evaluations = run.get("evaluations") or before_settings(run)
    step, parameters = run.get("best_step"), run.get("parameters")
    return [entry for entry in evaluations if _is_about(entry, role, step, parameters)]


def _is_about(entry: Json, role: str, step: int | None, parameters: str | None) -> bool:
    """By the digest, where both know it: a run that was begun anew comes by the same steps again."""
    known = entry.get("parameters")
    same = known == parameters or known is None or parameters is None
    return entry.get("role") == role and entry.get("step") == step and same


def setting(decoding: Any, memory: Json | None, trained_memory: Json | None) -> str:
    """What is unlike the usual in how answers were found: not greedy, or the memory not read as in training.

    Args:
      decoding: a dataclass whose defaults are greedy.
      memory: how it was read.
      trained_memory: how training read it.
    """
    told = [
        f"{field.name}={getattr(decoding, field.name)}"
        for field in dataclasses.fields(decoding)
        if getattr(decoding, field.name) != field.default
    ]
    before = trained_memory or {}
    read = memory or {}
    differing = [name for name, value in read.items() if before.get(name) != value]
    # Which entries they are, every run has for itself.
    told += ["told after training" if name == "entries" else f"{name}={read[name]}" for name in differing]
    return ", ".join(told)
