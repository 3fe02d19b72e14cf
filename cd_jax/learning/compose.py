"""What the verbs need of a run: its files, its vocabulary, and a process made from its gin configuration."""

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import gin
import seqio
from etils import epath
from jax.sharding import Mesh

from cd_jax.config import library
from cd_jax.config.macros import bound_to
from cd_jax.config.ranges import Seed
from cd_jax.errors import RequestError
from cd_jax.learning.agent import Agent
from cd_jax.learning.student import Settings, Student
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.nets.config import T5Config
from cd_jax.rundir import updates as store
from cd_jax.solver.solver import Solver
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.catalogue import Catalogue
from cd_jax.types import Example, Update

VOCABULARY = "vocabulary.model"


@gin.configurable("data")
def catalogue(
    babi_dir: str | None = None,
    com2sense_dir: str | None = None,
    tfds_data_dir: str | None = None,
    babi_layout: str | None = None,
    low_data_seed: Seed = 0,
    jsonl: dict[str, str] | None = None,
) -> Catalogue:
    """The tasks, from the data where gin says; see `Catalogue`."""
    return Catalogue(babi_dir, com2sense_dir, tfds_data_dir, babi_layout, low_data_seed, jsonl)


def make_agent(name: str) -> Agent:
    """The agent that gin describes, with what is bound of `gin/agents/NAME.gin`.

    Raises:
      RequestError: nothing describes one.
    """
    try:
        gin.query_parameter("Agent.lesson")
    except ValueError:
        raise RequestError(
            f"AGENT={name!r} is none of {', '.join(library.agents())}; bind --gin.AGENT=\"'cd_memory'\", or give a "
            "file of yours, agents/NAME.gin, that binds Agent.lesson"
        ) from None
    return Agent()  # type: ignore[call-arg]  # gin binds the rest


def _empty(mesh: Mesh) -> EpisodicMemory:
    return EpisodicMemory(mesh=mesh)


def digest(content: bytes) -> str:
    """A short one, for the identity of a run."""
    return hashlib.sha256(content).hexdigest()[:16]


def check_vocabulary(path: epath.Path, identity: dict[str, Any]) -> None:
    """Raises RequestError where it is not the vocabulary of the run, of which an old or imported one says nothing."""
    known = identity.get("vocabulary")
    if known and digest(path.read_bytes()) != known:
        raise RequestError(f"{path}: is not the vocabulary that the run was trained with; copy that one there again")


def distilled_files(directory: str | epath.Path, agent: Agent) -> tuple[epath.Path, dict[str, list[Update]]]:
    """The vocabulary that `cd_jax distill` left, and the updates of before the first round, where the agent has any.

    Raises:
      RequestError: they are not there.
    """
    directory = epath.Path(directory)
    path = directory / VOCABULARY
    if not path.is_file():
        raise RequestError(f"{path}: no vocabulary; run `cd_jax distill` first, or bind train.distilled to its folder")
    if agent.update is None:
        return path, {}
    grouped = store.read_grouped(directory / store.NAME)
    return path, {name: first for name, group in grouped.items() if (first := [u for u in group if not u.round])}


def check_explained(directory: str | epath.Path, examples: Sequence[Example], updates: Collection[str]) -> None:
    """Says how many examples have no update left after filtering.

    Args:
      directory: of the updates.
      examples: of the source.
      updates: the ids of those that have some.

    Raises:
      RequestError: an example was never explained.
    """
    rejected = epath.Path(directory) / store.REJECTED
    filtered = {update.example_id for update, _ in store.read_with_lines(rejected)}
    left = [example.example_id for example in examples if example.example_id not in updates]
    for name in left:
        if name not in filtered:
            raise RequestError(f"no update explains {name}; run `cd_jax distill` on this source")
    if left:
        said = f"{len(left)} of {len(examples)} examples have no update that was kept: their answers alone are learnt"
        print(f"[train] {said}", flush=True)


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


def make_student(
    agent: Agent,
    vocabulary: seqio.Vocabulary,
    memory: Callable[[Mesh], EpisodicMemory] = _empty,
    solver: Solver | None = None,
) -> Student:
    """The student as gin configures it.

    Args:
      agent: whose.
      vocabulary: of the tasks.
      memory: makes it, for the solver's mesh; called where the agent has one.
      solver: of the vocabulary; None makes it.

    Raises:
      RequestError: as `make_solver` does, or the memory is too small.
    """
    solver = solver or make_solver(vocabularies.padded_size(vocabulary))
    settings = Settings()  # type: ignore[call-arg]
    return Student(agent, vocabulary, solver, memory(solver.mesh) if agent.value else None, settings)
