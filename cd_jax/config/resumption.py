"""Taking work up again: what changes its result is refused, or recorded with the step from which on it holds."""

import re
from collections.abc import Mapping

import gin

from cd_jax.config.macros import resolved
from cd_jax.errors import RequestError

Bindings = dict[str, str]

# Nothing that a run does depends on them, or its identity says it better: data by digests, agent and seed by name.
_FREE = re.compile(
    r"(evaluate|infer|remember|distill|demo|show_tasks|aot|aot_sweep|data)\."
    r"|train\.(agent|arm|source|seed|batch_size|distilled|initial_checkpoint)$"
    r"|Partitioner\."
    r"|T5Config\.(scan_layers|remat_policy|logits_chunk)$"
    r"|SelfLearningProcess\.(eval_batch_size|strict_lengths|ask_without_memory)$"
)
# These lengthen a run and leave alone what was done.
_RECORDED = re.compile(r"Budget\.")
# Where an agent is described.
_OF_AGENTS = re.compile(r"(Agent|Rounds|Explanations)\.")
_STEPS, _DECAY = "Budget.steps", ".decay_steps"


def bindings() -> Bindings:
    """What gin binds now, macros resolved; of what a run depends on."""
    found = {
        f"{selector.rpartition('.')[2]}.{parameter}": repr(resolved(value))
        for (_, selector), parameters in gin.config._CONFIG.items()
        for parameter, value in parameters.items()
        if selector != "gin.macro"
    }
    return {name: value for name, value in sorted(found.items()) if not _FREE.match(name)}


def changes(where: str, before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What may change and did, by name.

    Args:
      where: the run, for the error.
      before: `bindings` of the run as it was begun.
      now: those of the command.

    Raises:
      RequestError: what was done would not be the beginning of what is asked.
    """
    if not any(name.startswith("Agent.") for name in before):
        # A run of before agents were files: they say what the agent's name said.
        now = {name: value for name, value in now.items() if not _OF_AGENTS.match(name)}
    differing = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    recorded = {name: now.get(name, "unbound") for name in differing if _RECORDED.match(name)}
    for name in differing:
        # A schedule that ends with the steps goes with them.
        if name.endswith(_DECAY) and _STEPS in recorded and now.get(name) == now.get(_STEPS):
            recorded[name] = now[name]
        elif name not in recorded:
            raise RequestError(
                f"{where}: was begun with {name} = {before.get(name, 'unbound')}, not {now.get(name, 'unbound')}; "
                "choose another --model_dir or bind it so"
            )
    return recorded
