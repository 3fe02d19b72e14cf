"""The plan of an experiment: arms x seeds, each pair a run with a folder of its own."""

import ast
import re
from collections.abc import Mapping
from typing import Any

import gin
from etils import epath

from cd_jax.config.ranges import Seed
from cd_jax.errors import RequestError
from cd_jax.types import Arm, Run

# What names a folder, whatever the file system.
_NAME = re.compile(r"\w[\w.+-]*")
# Of the run, and not of its arm.
_OF_THE_RUN = ("ARM", "SEED")


@gin.configurable("demo")
def plan(
    model_dir: str, agents: list[str], seeds: list[Seed], arms: dict[str, dict[str, Any]] | None = None
) -> list[Run]:
    """The runs, seed after seed: as soon as one seed is done, all arms can be compared.

    Args:
      model_dir: of the experiment; each run has its own folder `<arm>-seed<seed>` in it.
      agents: each is an arm of its name, where no arms are given.
      seeds: of the runs; the teacher's seed is its own.
      arms: bindings of gin by the arms' names, such as `{'fixed': {'AGENT': 'cd_memory', 'TRAIN_RETRIEVAL': 'fixed'}}`;
        an arm that binds no AGENT is the agent of its name.

    Raises:
      RequestError: there is no run in it, or an arm's name or binding cannot be one.
    """
    made = [_arm(name, bound) for name, bound in arms.items()] if arms else [_arm(agent, {}) for agent in agents]
    if not made or not seeds:
        raise RequestError(f"AGENTS={agents} and SEEDS={seeds} make no run; name one or more of each")
    directory = epath.Path(model_dir)
    return [Run(arm, seed, str(directory / f"{arm.name}-seed{seed}")) for seed in seeds for arm in made]


def _arm(name: str, bound: Mapping[str, Any]) -> Arm:
    bindings = {"AGENT": name} | dict(bound)
    if bound and not _NAME.fullmatch(name):
        raise RequestError(f"ARMS: {name!r} names no folder; use letters, digits and any of _ . + -")
    for binding, value in bindings.items():
        if binding in _OF_THE_RUN:
            raise RequestError(f"ARMS: {name!r} binds {binding}, which is bound for each run; leave it out")
        if not _is_written(value):
            raise RequestError(
                f"ARMS: {name!r} binds {binding} to {value!r}, which gin cannot write; give a plain value, "
                "or a reference in quotes, such as '@DeviceIndex'"
            )
    return Arm(name, bindings)


def _is_written(value: Any) -> bool:
    try:
        return ast.literal_eval(repr(value)) == value
    except (SyntaxError, ValueError):
        return False


def statements(run: Run) -> list[str]:
    """What gin is to be told for a run, beside what holds for all of them."""
    bindings = {**run.arm.bindings, "SEED": run.seed, "ARM": run.arm.name}
    return [f"{name} = {_written(value)}" for name, value in bindings.items()]


def _written(value: Any) -> str:
    return value if isinstance(value, str) and value.startswith(("@", "%")) else repr(value)
