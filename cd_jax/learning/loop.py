"""The self-learning process: a round is six lines (arXiv 2212.11353, section 2)."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from cd_jax.feed import lessons
from cd_jax.feed.tokens import TokenisedExamples
from cd_jax.learning import attempting, extending, gain, selecting
from cd_jax.learning.agent import Agent, Rounds
from cd_jax.learning.attempting import Attempts
from cd_jax.learning.ledger import Ledger
from cd_jax.learning.student import Student
from cd_jax.learning.trainer import Trainer
from cd_jax.rundir import attempts as attempts_file
from cd_jax.rundir import files, hosts, interrupt, results
from cd_jax.rundir import updates as store
from cd_jax.solver.decoding import Decoding
from cd_jax.solver.solver import TrainState
from cd_jax.types import Lesson, Update


class SelfLearning:
    """One run of the process.

    All that comes before the fitting of a round is made of what is on disk, so a run that was killed goes through its
    rounds again, finds in each what was done, and goes on where something is missing.
    """

    def __init__(
        self,
        agent: Agent,
        student: Student,
        trainer: Trainer,
        ledger: Ledger,
        source: TokenisedExamples,
        task: str,
        seed: int,
    ):
        """Learns nothing yet.

        Args:
          agent: the policies.
          student: that learns.
          trainer: of it.
          ledger: of the run.
          source: the examples.
          task: their name.
          seed: of every draw.
        """
        self._agent, self._student, self._trainer, self._ledger = agent, student, trainer, ledger
        self._source, self._task, self._seed = source, task, seed
        # Of the round that goes on, for the record.
        self._told: dict[str, int] = {}

    def learn(self, state: TrainState, updates: list[Update]) -> TrainState:
        """Goes through all rounds.

        Args:
          state: of a fresh run, or of the newest checkpoint.
          updates: that were written before the first round.

        Returns:
          The state in the end.
        """
        for number in range(self._agent.rounds.number):
            attempts = self._attempt(state, number)
            updates = self._update(updates, attempts, number)
            chosen = self._select(state, updates, number)
            self._remember(chosen, number)
            state = self._fit(state, self._lessons(chosen, attempts), number)
        return state

    def check(self, updates: list[Update]) -> None:
        """Goes through what comes before the first fitting, for the errors."""
        self._remember(updates, 0)
        self._trainer.check(self._lessons(updates, {}))

    # The lines of a round

    def _attempt(self, state: TrainState, number: int) -> Attempts:
        """The solver's attempts at examples of the source, verified; before the first round it knows nothing yet."""
        if number == 0:
            return {}
        ledger = self._ledger
        begun = ledger.number >= number
        step = ledger.progress.rounds[number]["first_step"] if begun else int(state.step)
        path = attempting.file_of(ledger.directory, self._task, f"train_round{number}", step)
        if not begun and not path.is_file():
            self._keep_memory(number - 1)
            self._student.refresh(state.params)
            feed, rounds = self._student.eval_feed(self._source), self._agent.rounds
            rows = np.random.default_rng((self._seed, number, 5)).permutation(len(self._source.examples))
            method, chosen = _drawn(rounds), rows[: rounds.examples].astype(np.int32)
            seed = int(np.random.default_rng((self._seed, number, 6)).integers(2**31))
            made = self._student.attempt_some(state.params, feed, chosen, method, seed, interrupt.check)
            hosts.first("attempts", lambda: attempts_file.write(path, made))
            right = np.mean([attempt.correct for attempt in made])
            print(f"[{ledger.name}] round {number}: {len(made)} attempts, {right:.3f} of them right", flush=True)
        attempts = attempting.read(path, self._source.examples)
        made = [attempt for group in attempts.values() for attempt in group]
        self._told = {"attempts": len(made), "right": sum(attempt.correct for attempt in made)}
        return attempts

    def _update(self, updates: list[Update], attempts: Attempts, number: int) -> list[Update]:
        """All updates so far, with those that the agent's policy writes in this round."""
        if number == 0 or self._agent.update is None:
            self._told |= {"written": len(updates) if number == 0 else 0}
            return updates
        path = self._ledger.directory / store.NAME
        examples = [one for one in self._source.examples if one.example_id in attempts]
        filters = self._agent.filters
        policy = self._agent.update()
        there = extending.extend(path, policy, examples, attempts, number, updates, filters)
        fresh = [one for one in there if one.round == number]
        self._told |= {"written": len(fresh)}
        print(f"[{self._ledger.name}] round {number}: {len(fresh)} updates{policy.odd()}", flush=True)
        return [*(one for one in updates if one.round < number), *fresh]

    def _select(self, state: TrainState, updates: list[Update], number: int) -> list[Update]:
        """Those of all updates that are used."""

        def gains(pairs: Sequence[gain.Pair]) -> np.ndarray:
            return gain.gains(self._student.likelihood(state.params), pairs)

        chosen, directory = self._agent.selection, self._ledger.directory
        return selecting.select(chosen, self._source.examples, updates, gains, directory, number)

    def _remember(self, updates: list[Update], number: int) -> None:
        """Takes what the round has brought into memory, which may make room for it."""
        kept = self._ledger.remembered
        before = kept.get("used_before", ())
        # Where nothing was kept of this round, it begins with what the checkpoint before it has counted.
        self._student.begin_round(before[number] if number < len(before) else kept.get("used"))
        fresh = _grouped([one for one in updates if one.round == number])
        self._told |= {"kept": 0}
        explained = [one for one in self._source.examples if number == 0 or one.example_id in fresh]
        if explained:
            self._told |= {"kept": self._student.remember(explained, fresh, self._seed)}

    def _keep_memory(self, number: int) -> None:
        """Keeps the memory of a round that has ended, for the evaluation of its parameters."""
        entries = self._ledger.directory / results.MEMORY / results.ENTRIES
        if entries.is_file():
            kept = memory_of(self._ledger.directory, number) / entries.name
            hosts.first("memory", lambda: files.write_bytes(kept, entries.read_bytes()))

    def _lessons(self, updates: list[Update], attempts: Attempts) -> list[list[Lesson]]:
        """What is learnt of every example."""
        grouped = _grouped(updates)
        if self._agent.rounds.lessons == "last":
            newest = {name: max(one.round for one in group) for name, group in grouped.items()}
            grouped = {name: [u for u in group if u.round == newest[name]] for name, group in grouped.items()}
        weight = self._student.answer_weight
        return lessons.of_examples(self._agent.lesson, self._source.examples, grouped, attempts, weight)

    def _fit(self, state: TrainState, taught: list[list[Lesson]], number: int) -> TrainState:
        """Training goes on from the parameters there are, unless the round has ended already."""
        ledger, step = self._ledger, int(state.step)
        share = (number + 1) / self._agent.rounds.number
        if number < ledger.number:
            return state
        if number == ledger.number and self._trainer.is_fitted(step, share):
            if number + 1 == self._agent.rounds.number:
                print(f"[{ledger.name}] is done: {self._trainer.ended(step)}", flush=True)
            return state
        if number > ledger.number:
            ledger.progress.rounds.append({"first_step": step, **self._told})
        state = self._trainer.fit(state, taught, share)
        ended = self._trainer.ended(int(state.step))
        last = number + 1 == self._agent.rounds.number
        print(f"[{ledger.name}] {'' if last else f'round {number} '}ended: {ended}", flush=True)
        return state


def memory_of(model_dir: epath.Path, number: int) -> epath.Path:
    """The folder with the memory of a round that was followed by others."""
    return model_dir / results.MEMORY / f"round{number}"


def _drawn(rounds: Rounds) -> Decoding:
    if rounds.temperature == 0:
        return Decoding()
    return Decoding(temperature=rounds.temperature, num_samples=rounds.samples)


def _grouped(updates: Sequence[Update]) -> dict[str, list[Update]]:
    found: dict[str, list[Update]] = {}
    for update in updates:
        found.setdefault(update.example_id, []).append(update)
    return found
