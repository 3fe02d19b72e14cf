"""The scores of one run: what tells them apart, and how new ones stand beside old ones in results.json."""

import dataclasses
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

# An entry of `evaluations`: of which parameters it is, what was asked, and how.
_KEY = ("step", "parameters", "role", "task", "split", "sample", "decoding", "memory")


def key(entry: Json) -> str:
    """The same for entries of which the newer one replaces the older one."""
    return repr([_sorted(entry.get(name)) for name in _KEY])


def _sorted(value: Any) -> Any:
    return [(name, _sorted(inner)) for name, inner in sorted(value.items())] if isinstance(value, dict) else value


def merged(before: Sequence[Json], now: Sequence[Json]) -> list[Json]:
    """All of them; of those with the same `key` the newer one."""
    return list(({key(entry): entry for entry in before} | {key(entry): entry for entry in now}).values())


def newest(evaluations: Sequence[Json], step: int, role: str) -> list[Json]:
    """Of each task in that role the newest entry about the parameters of that step, without its role."""
    found = {e["task"]: e for e in evaluations if e.get("role") == role and e.get("step") == step}
    return [{name: value for name, value in entry.items() if name != "role"} for entry in found.values()]


def of_run(run: Json, role: str) -> list[Json]:
    """What a run's results say of its best parameters: all evaluations, where they are recorded."""
    if run.get("evaluations"):
        return [e for e in run["evaluations"] if e.get("role") == role and e.get("step") == run.get("best_step")]
    if role == "target":
        return run.get("targets") or []
    return [run["source"]] if run.get("source") else []


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
    return ", ".join(told + [f"{n}={v}" for n, v in (memory or {}).items() if before.get(n) != v])
