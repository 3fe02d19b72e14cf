"""Reads what the runs of an experiment left in their folders, and merges it.

An experiment folder holds one model_dir for each run, `<arm>-seed<seed>/`; a folder that is itself a model_dir
counts as an experiment of one run. A run that was killed leaves half a line in its logs, and one that was resumed
logs some steps twice: both are expected here.
"""

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from cd_jax.errors import RequestError
from cd_jax.rundir import files, measures

AGENTS = ("baseline", "cd_finetune", "cd_memory")
RESULTS = "results.json"
METRICS = "metrics.jsonl"
INFERENCE = "inference"
MEMORY = "memory"
ENTRIES = "entries.jsonl"
_ROUND = ", round "
_GROUPS = ("by_domain", "by_scenario", "by_task")
_MEND = "delete it and evaluate the run again"

Json = dict[str, Any]


def arm(run: Json) -> str:
    """The arm of a run; in older files it is the agent."""
    return run.get("arm") or run["agent"]


def named(run: Json) -> str:
    """What a run's figures are shown under: its arm, and the round where there were several."""
    return f"{arm(run)}{_ROUND}{run.get('round') or 0}" if (run.get("rounds") or 1) > 1 else arm(run)


def arm_order(name: str) -> tuple[int, str]:
    """Sort key: the three agents in the order in which each adds to the one before, then other arms by name; the rounds
    of an arm in turn."""
    name_of_arm = name.partition(_ROUND)[0]
    return (AGENTS.index(name_of_arm) if name_of_arm in AGENTS else len(AGENTS), name)


def run_dirs(directory: str | os.PathLike[str]) -> list[epath.Path]:
    """The folders of an experiment's finished runs.

    Args:
      directory: an experiment folder, or the model_dir of a single run.

    Returns:
      The sub-folders that hold a results.json, by arm and seed; where there are none, the directory itself.
      Sub-folders win, so that a merged results.json beside them is not taken for a run.

    Raises:
      RequestError: there is no results.json in the directory nor in its sub-folders.
    """
    whole = epath.Path(directory)
    found = [folder for folder in _folders(whole) if (folder / RESULTS).is_file()]
    if found:
        return found
    if (whole / RESULTS).is_file():
        return [whole]
    raise RequestError(f"{directory}: no {RESULTS} here or in its sub-folders; name the folder of a finished run")


def unfinished_dirs(directory: str | os.PathLike[str]) -> list[epath.Path]:
    """The sub-folders that look like runs (they hold metrics) but have no results.json yet."""
    folders = _folders(epath.Path(directory))
    return [folder for folder in folders if (folder / METRICS).is_file() and not (folder / RESULTS).is_file()]


def _folders(directory: epath.Path) -> list[epath.Path]:
    if not directory.is_dir():
        raise RequestError(f"{directory}: no such folder; name a model_dir or a folder of them")
    try:
        return sorted((path for path in directory.iterdir() if path.is_dir()), key=_folder_order)
    except OSError as error:
        raise RequestError(f"{directory}: cannot be listed ({error.strerror}); check its permissions") from error


def _folder_order(path: epath.Path) -> tuple:
    name, _, seed = path.name.rpartition("-seed")
    return (*arm_order(name), int(seed) if seed.isdecimal() else 0, path.name)


def read_results(run_dir: str | os.PathLike[str]) -> Json:
    """The results.json of one folder, checked for what every reader of it relies on.

    Raises:
      RequestError: the file cannot be read, is not valid JSON, or is not a results.json.
    """
    path = epath.Path(run_dir) / RESULTS
    found = files.read_json(path, _MEND)
    problem = _problem(found)
    if problem:
        raise RequestError(f"{path}: {problem}; {_MEND}")
    return found


def _problem(found: Json) -> str:
    """What keeps `found` from being a results.json, or an empty string."""
    if not isinstance(found.get("runs"), list):
        return "no list of `runs`"
    meta = found.get("meta", {})
    if not isinstance(meta, dict):
        return "`meta` is not an object"
    if not _are(meta.get("seeds") or [], _is_integer):
        return "`meta.seeds` is no list of integers"
    problems = ((index, _run_problem(run)) for index, run in enumerate(found["runs"]))
    return next((f"`runs[{index}]` {problem}" for index, problem in problems if problem), "")


def _run_problem(run: Any) -> str:
    if not isinstance(run, dict) or not isinstance(run.get("agent"), str) or not _is_integer(run.get("seed")):
        return "has no `agent` (text) and `seed` (integer)"
    for name in ("targets", "evaluations"):
        if not isinstance(run.get(name) or [], list):
            return f"has `{name}` that are no list"
    if problem := _kind_problem(run, _OF_A_RUN) or _kind_problem(run.get("trained_on") or {}, _TRAINED_ON):
        return problem
    for scored in [run.get("source") or {"task": ""}, *(run.get("targets") or []), *(run.get("evaluations") or [])]:
        if not isinstance(scored, dict) or not isinstance(scored.get("task"), str):
            return "has a source or target without a `task`"
        problem = _score_problem(scored) or _group_problem(scored) or _kind_problem(scored, _OF_A_SCORE)
        if problem:
            return problem
    return ""


def _score_problem(scores: Json) -> str:
    for name in (*_SHARES, *_COUNTS):
        found = scores.get(name)
        if found is not None and figure(found) is None:
            return f"has an `{name}` that is no number"
        if found is not None and name in _SHARES and not _is_share(found):
            return f"has an `{name}` of {found}, which is not in 0..1"
        if found is not None and name in _COUNTS and not _is_count(found):
            return f"has an `{name}` of {found}, which counts nothing"
    return ""


def _group_problem(scored: Json) -> str:
    for key in _GROUPS:
        groups = scored.get(key) or {}
        if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
            return f"has a `{key}` that is no object of objects"
        problem = next(filter(None, map(_score_problem, groups.values())), "")
        if problem:
            return f"{problem}, in `{key}`"
    return ""


def _kind_problem(found: Json, kinds: dict[str, Callable[[Any], bool]]) -> str:
    wrong = (name for name, kind in kinds.items() if found.get(name) is not None and not kind(found[name]))
    return next((f"has a `{name}` of the wrong kind" for name in wrong), "")


def _is_integer(value: Any) -> bool:
    # To isinstance, true is a whole number.
    return type(value) is int


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    return figure(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _converts(value: Any, convert: Callable[[Any], Any]) -> bool:
    try:
        convert(value)
    except ValueError:
        return False
    return True


def _are(values: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(map(kind, values))


# What is said of a source or a target, and under the groups also of its parts.
_SHARES = ("accuracy", "pairwise_accuracy", "mean_task_accuracy")
_COUNTS = ("n", "unpaired", "tasks_at_95")
# How a score came about, see `scores`.
_OF_A_SCORE: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("role", "split", "parameters", "setting"), _is_text),
    **dict.fromkeys(("sample", "decoding", "memory"), _is_object),
    "truncated": lambda value: _is_object(value) and all(map(_is_share, value.values())),
    "step": _is_integer,
    "calibration": lambda value: _converts(value, measures.calibration),
    "gain": lambda value: _converts(value, measures.gain),
}
# What a run has beside its scores, where it has it.
_OF_A_RUN: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("arm", "stopped_by", "parameters"), _is_text),
    **dict.fromkeys(("round", "rounds"), _is_count),
    "updates": lambda value: _is_object(value) and all(map(_is_count, value.values())),
    **dict.fromkeys(("steps", "best_step"), _is_integer),
    "train_seconds": _is_number,
    "trained_on": _is_object,
}
_TRAINED_ON: dict[str, Callable[[Any], bool]] = {"task": _is_text, "examples": _is_count, "updates": _is_count}


def merge(directory: str | os.PathLike[str]) -> Json:
    """One results object for all runs of an experiment.

    Args:
      directory: an experiment folder, or the model_dir of a single run.

    Returns:
      An object of the form of a results.json. The runs are in the order of the arms (baseline, cd_finetune,
      cd_memory, others by name), then of the seeds and rounds. `meta.seeds` is the union of all seeds; where the
      runs differ in another entry of `meta`, its values are joined by commas.

    Raises:
      RequestError: a results.json is wrong, there is none, or two folders hold the same run.
    """
    metas: list[Json] = []
    runs: list[Json] = []
    seen: dict[tuple, epath.Path] = {}
    for folder in run_dirs(directory):
        found = read_results(folder)
        metas.append(found.get("meta", {}))
        for run in found["runs"]:
            key = _key(run)
            if key in seen:
                # Counting a run twice would make its arm's spread over the seeds too small.
                same = f"{arm(run)} with seed {run['seed']}"
                raise RequestError(f"{folder / RESULTS}: {same} is also in {seen[key] / RESULTS}; remove one of them")
            seen[key] = folder
            runs.append(run)
    runs.sort(key=_key)
    seeds = {run["seed"] for run in runs}.union(*(meta.get("seeds") or [] for meta in metas))
    rest = _combine([{key: value for key, value in meta.items() if key != "seeds"} for meta in metas])
    return {"meta": {**(rest or {}), "seeds": sorted(seeds)}, "runs": runs}


def _key(run: Json) -> tuple:
    """What tells a run from others of an experiment, in their order; older files say nothing of rounds."""
    return arm_order(arm(run)), run["seed"], run.get("round") or 0, (run.get("source") or {}).get("task", "")


def _combine(values: list[Any]) -> Any:
    """One value for all runs: objects key by key, else the value itself or, where they differ, all of them."""
    if values and all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _combine([value[key] for value in values if key in value]) for key in keys}
    distinct = [value for index, value in enumerate(values) if value is not None and value not in values[:index]]
    return ", ".join(map(str, distinct)) if len(distinct) > 1 else next(iter(distinct), None)


def series(metrics: Iterable[Json], name: str) -> list[tuple[int, float]]:
    """The finite values of one metric as (step, value), by step.

    A resumed run logs the steps since its last checkpoint again: the later value counts.
    """
    points: dict[int, float] = {}
    for line in metrics:
        step, value = line.get("step"), figure(line.get(name))
        if type(step) is int and _is_count(step) and figure(step) is not None and value is not None:
            points[step] = value
    return sorted(points.items())


def figure(value: Any) -> float | None:
    """A finite number as such; None for all else, also for true and for what no float holds."""
    if type(value) not in (int, float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def inference_files(run_dir: epath.Path) -> dict[str, epath.Path]:
    """The newest file of decoded examples for each task, `inference/<task>-<step>.jsonl`, by task."""
    newest: dict[str, tuple[int, epath.Path]] = {}
    folder = run_dir / INFERENCE
    # Not `glob`, to which a bracket in the folder's own name is a pattern.
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        task, _, step = path.stem.rpartition("-")
        if path.suffix == ".jsonl" and step.isdecimal() and int(step) >= newest.get(task, (-1, path))[0]:
            newest[task] = (int(step), path)
    return {task: path for task, (_, path) in newest.items()}
