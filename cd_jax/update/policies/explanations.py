"""The paper's update policy: a teacher explains why the right answer is right (arXiv 2212.11353, section 2)."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import gin

from cd_jax.config.ranges import PositiveInt, Seed
from cd_jax.feed import formats
from cd_jax.rundir import files
from cd_jax.rundir.requests import Answer, Requests, Tokens
from cd_jax.types import Attempt, Update
from cd_jax.update.policy import Asked
from cd_jax.update.teachers.oracle import OracleTeacher
from cd_jax.update.teachers.requests import Dialogue, Request, replay
from cd_jax.update.teachers.teacher import AskedTeacher, Explanation, Teacher
from cd_jax.verifier.answers import ChrF


class Estimate(NamedTuple):
    """What is still to be asked.

    Attributes:
      requests: if every answer is new.
      tokens: of these, at most.
      most_requests: if every answer must be asked for as often as it may.
      most_tokens: of these, at most.
    """

    requests: int
    tokens: Tokens
    most_requests: int
    most_tokens: Tokens


@gin.configurable
class Explanations:
    """A teacher is asked for updates: in the first round of every example, later of those that the solver got wrong.

    Attributes:
      name: of the teacher.
      seed: of the teacher.
      wanted: explanations of an example in a round.
    """

    def __init__(self, teacher: Callable[[], Teacher] = OracleTeacher, num_updates: PositiveInt = 3, seed: Seed = 0):
        """Asks nothing yet.

        Args:
          teacher: makes it.
          num_updates: explanations of an example in a round.
          seed: of the teacher.
        """
        self._teacher, self.wanted, self.seed = teacher(), num_updates, seed
        self.name = self._teacher.name
        self._graded = ChrF()
        self._told = ""

    def write(self, asked: Sequence[Asked], number: int, directory: files.Path) -> Iterator[list[Update]]:
        """See `UpdatePolicy`; as many as are missing in this round, as far as the teacher has more to say.

        Raises:
          RunError: the teacher cannot be asked, or may not.
        """
        if not isinstance(self._teacher, AskedTeacher):
            for one in asked:
                yield self._said(self._teacher, one, number)
            return
        asking = self._teacher.asking(Requests(directory))
        for one, found in zip(asked, asking.results(self._dialogues(self._teacher, asked, number)), strict=True):
            yield self._updates(one, found, number)
        self._told = asking.told()

    def replay(
        self, asked: Iterable[Asked], number: int, answers: Mapping[str, Answer]
    ) -> Iterator[tuple[Asked, list[Update], list[Request]]]:
        """The same from answers that are there, without asking for more: each example, its new updates, and the
        requests that must be answered before there are any. Of a teacher whose answers are not kept, nothing."""
        if isinstance(self._teacher, AskedTeacher):
            for one in asked:
                [dialogue] = self._dialogues(self._teacher, [one], number)
                found, missing = replay(dialogue, answers)
                yield one, [] if missing else self._updates(one, found, number), missing

    def candidates(self, one: Asked, number: int) -> list[Request]:
        """All that may be asked of an example, whatever is answered."""
        if (teacher := self.asked_teacher) is None:
            return []
        return teacher.candidates(one.example, _seen(one.attempts), self._missing(one, number), self.seed)

    def estimate(self, asked: Sequence[Asked], number: int, answers: Mapping[str, Answer]) -> Estimate:
        """What is still to be asked, without asking."""
        requests, again, teacher = [], [], self.asked_teacher
        for one, _, missing in self.replay(asked, number, answers):
            requests += missing
            if teacher and missing:
                again += self.candidates(one, number)
        return Estimate(len(requests), _bound(requests), len(again), _bound(again))

    @property
    def asked_teacher(self) -> AskedTeacher | None:
        """The teacher where its answers are paid for and kept; else None."""
        return self._teacher if isinstance(self._teacher, AskedTeacher) else None

    def is_outdated(self, one: Asked, update: Update) -> bool:
        """Whether the teacher is asked something else now than what the update answers."""
        teacher = self.asked_teacher
        if teacher is None:
            return False
        is_other = bool(update.prompt_hash) and update.prompt_hash != teacher.prompt_hash
        return is_other or update.prompt != teacher.prompt(one.example, _seen(one.attempts))

    def _said(self, teacher: Teacher, one: Asked, number: int) -> list[Update]:
        if not (missing := self._missing(one, number)):
            return []
        known = {update.update for update in one.known}
        said = teacher.explain(one.example, _seen(one.attempts), self.wanted, self.seed)
        fresh = dict.fromkeys(explanation for explanation in said if explanation.text not in known)
        return self._updates(one, list(zip(missing, fresh, strict=False)), number)

    def _dialogues(self, teacher: AskedTeacher, asked: Iterable[Asked], number: int) -> Iterator[Dialogue]:
        for one in asked:
            missing, texts = self._missing(one, number), [update.update for update in one.known]
            yield teacher.dialogue(one.example, _seen(one.attempts), missing, self.seed, texts)

    def _missing(self, one: Asked, number: int) -> list[int]:
        """The indices of its updates that are to be written in this round."""
        if number and all(attempt.correct for attempt in one.attempts):
            return []  # There is nothing to contrast the answer with.
        first = 1 + max((update.sample for update in one.known if update.round < number), default=-1)
        there = {update.sample for update in one.known if update.round == number}
        return [sample for sample in range(first, first + self.wanted) if sample not in there]

    def _updates(self, one: Asked, found: Sequence[tuple[int, Explanation]], number: int) -> list[Update]:
        example, attempt = one.example, _seen(one.attempts)
        score = self._graded([formats.parse_answer(attempt)], [example.answer])[0] if attempt is not None else None
        update = functools.partial(Update, example.example_id, example.task, teacher=self.name, seed=self.seed)
        return [
            update(
                update=said.text, prompt=said.prompt, sample=sample, score=score, reason=said.reason, round=number,
                prompt_hash=said.prompt_hash, log_prob=said.log_prob,
            )
            for sample, said in found
        ]  # fmt: skip

    def odd(self) -> str:
        """What was asked and what it took, and what came of requests that brought no explanation, or an odd one."""
        teacher = self._teacher
        if not isinstance(teacher, AskedTeacher):
            return ""
        told = [
            f"{n} {kind}" + (f" ({s})" if (s := teacher.said.get(kind)) else "") for kind, n in teacher.counts.items()
        ]
        kinds = f"; of the answers: {', '.join(told)}" if told else ""
        return kinds + (f"; {self._told}" if self._told else "")


def _bound(requests: Sequence[Request]) -> Tokens:
    bounds = [request.bound for request in requests]
    return Tokens(sum(bound.prompt for bound in bounds), sum(bound.answer for bound in bounds))


def _seen(attempts: Sequence[Attempt]) -> str | None:
    """The attempt that the teacher sees: the first wrong one, else the first; None where there is none."""
    shown = next((attempt for attempt in attempts if not attempt.correct), attempts[0] if attempts else None)
    return shown.generation if shown else None
