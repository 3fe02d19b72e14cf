"""The sharding rules of gin/sharding, by name, for sweeps."""

import ast
import pathlib
import re
from collections.abc import Sequence

from cd_jax.config import library
from cd_jax.errors import RequestError
from cd_jax.solver.partitioning import Rules

NAMES = ("data", "fsdp", "model", "fsdp_model", "fsdp_2d")
_RULES = re.compile(r"^Partitioner\.logical_axis_rules = (\[.*?^\])", re.MULTILINE | re.DOTALL)


def rules(name: str) -> Rules:
    """The rules that gin/sharding/NAME.gin binds.

    Raises:
      RequestError: there is no such file.
    """
    if name not in NAMES:
        raise RequestError(f"aot_sweep.sharding_rules: {name!r} is none of {', '.join(NAMES)}")
    match = _RULES.search(pathlib.Path(library.packaged(f"sharding/{name}.gin")).read_text())
    assert match, name
    return ast.literal_eval(match[1])


def that_use(axes: tuple[int, int], names: Sequence[str]) -> list[str]:
    """Those of the rules that shard along `model` where the mesh has that axis, those that do not where it has not."""
    return [name for name in names if any("model" in (along or ()) for _, along in rules(name)) == (axes[1] > 1)]
