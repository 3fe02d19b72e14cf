"""What the verbs need of a run: its files, its vocabulary, and a process made from its gin configuration."""

import hashlib
import pathlib
import re
from collections.abc import Callable
from typing import Any

import gin
import seqio
from jax.sharding import Mesh

from cd_jax import tasks
from cd_jax.config.macros import bound_to
from cd_jax.config.ranges import Seed
from cd_jax.errors import RequestError
from cd_jax.learning.student import AGENTS, Agent, SelfLearningProcess
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.nets.config import T5Config
from cd_jax.solver.solver import Solver
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Update
from cd_jax.update import store

VOCABULARY = "vocabulary.model"


@gin.configurable
def data(
    babi_dir: str | None = None,
    com2sense_dir: str | None = None,
    tfds_data_dir: str | None = None,
    babi_layout: str | None = None,
    low_data_seed: Seed = 0,
    jsonl: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Where data sets and tasks of JSON lines are, and which examples the low-data tasks have; see `tasks.register`."""
    return {
        "babi_dir": babi_dir,
        "com2sense_dir": com2sense_dir,
        "tfds_data_dir": tfds_data_dir,
        "babi_layout": babi_layout,
        "low_data_seed": low_data_seed,
        "jsonl": jsonl,
    }


def agent_named(name: str) -> Agent:
    """The agent.

    Raises:
      RequestError: there is none of this name.
    """
    if name not in AGENTS:
        raise RequestError(f"AGENT={name!r} is none of {', '.join(AGENTS)}; bind --gin.AGENT=\"'cd_memory'\"")
    return AGENTS[name]


def use_vocabulary(path: str | pathlib.Path) -> seqio.Vocabulary:
    """Registers all tasks with the vocabulary in a file, and the data where gin says; returns it."""
    tasks.register(**data(), vocabulary=path)
    return vocabularies.load(path)


def digest(content: bytes) -> str:
    """A short one, for the identity of a run."""
    return hashlib.sha256(content).hexdigest()[:16]


def check_vocabulary(path: pathlib.Path, identity: dict[str, Any]) -> None:
    """Raises RequestError where it is not the vocabulary of the run, of which an old or imported one says nothing."""
    known = identity.get("vocabulary")
    if known and digest(path.read_bytes()) != known:
        raise RequestError(f"{path}: is not the vocabulary that the run was trained with; copy that one there again")


def distilled_files(directory: str | pathlib.Path, agent: str) -> tuple[pathlib.Path, dict[str, list[Update]]]:
    """The vocabulary that `cd_jax distill` left, and the updates where the agent learns from them.

    Raises:
      RequestError: they are not there.
    """
    directory = pathlib.Path(directory)
    path = directory / VOCABULARY
    if not path.is_file():
        raise RequestError(f"{path}: no vocabulary; run `cd_jax distill` first, or bind train.distilled to its folder")
    return path, store.read_grouped(directory / "updates.jsonl") if agent_named(agent).explains else {}


def make_solver(vocab_size: int) -> Solver:
    """The solver as gin configures it.

    Raises:
      RequestError: its bindings do not go together.
    """
    try:
        return Solver(T5Config(), vocab_size)  # type: ignore[call-arg]  # gin binds the rest
    except ValueError as error:
        # Of optax: what it says is in the first line; those after it are gin's, and name what was called.
        why, *calls = str(error).splitlines()
        named = re.search(r"'([\w.]+)'", " ".join(calls))
        told = f"{why.rstrip('.')}; change {bound_to(named[1]) if named else 'what is bound to it'}"
        raise RequestError(f"the bindings of the solver do not go together: {told}") from error


def make_process(
    agent: str, vocabulary: seqio.Vocabulary, remembered: Callable[[Mesh], EpisodicMemory]
) -> SelfLearningProcess:
    """The process as gin configures it.

    Args:
      agent: of `process.AGENTS`.
      vocabulary: of the tasks.
      remembered: makes the memory, filled, for the solver's mesh; called where the agent has one.

    Raises:
      RequestError: as `make_solver` does, or the memory is too small.
    """
    solver = make_solver(vocabularies.padded_size(vocabulary))
    memory = None
    if agent_named(agent).remembers:
        memory = remembered(solver.mesh)
        memory.check_enough()
    return SelfLearningProcess(agent_named(agent), vocabulary, solver, memory)  # type: ignore[call-arg]
