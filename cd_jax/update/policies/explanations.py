"""The paper's update policy: a teacher explains why the right answer is right (arXiv 2212.11353, section 2)."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import gin

from cd_jax.config.ranges import PositiveInt, Seed
from cd_jax.feed import formats
from cd_jax.types import Attempt, Example, Update
from cd_jax.update.teachers.oracle import OracleTeacher
from cd_jax.update.teachers.teacher import Explanation, SamplingTeacher, Teacher
from cd_jax.verifier.answers import ChrF

_CHUNK = 500
# Of an example, the teacher, and a hash of what it was told; how many updates were wanted.
Key = tuple[str, str, str]


@gin.configurable
class Explanations:
    """A teacher is asked for updates: in the first round of every example, later of those that the solver got wrong.

    Attributes:
      name: of the teacher.
      seed: of the teacher.
      wanted: explanations of an example in a round.
      chunk: see `UpdatePolicy`.
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
        # What others say may have been paid for.
        self.chunk = _CHUNK if isinstance(self._teacher, OracleTeacher) else 1
        self._graded = ChrF()

    def key(self, example: Example, attempts: Sequence[Attempt]) -> Key:
        """What the teacher's answer depends on: example, name, and a hash of what it is told where it says one."""
        shown = _seen(attempts)
        if isinstance(self._teacher, SamplingTeacher):
            return example.example_id, self.name, self._teacher.request_hash(example, shown)
        return example.example_id, self.name, hashlib.sha256(shown.encode()).hexdigest()[:16] if shown else ""

    def write(
        self, example: Example, attempts: Sequence[Attempt], known: Sequence[Update], number: int
    ) -> Iterator[Update]:
        """See `UpdatePolicy`; as many as are missing in this round, as far as the teacher has more to say."""
        if number and not any(not attempt.correct for attempt in attempts):
            return  # There is nothing to contrast the answer with.
        attempt = _seen(attempts)
        score = self._graded([formats.parse_answer(attempt)], [example.answer])[0] if attempt is not None else None
        first = 1 + max((update.sample for update in known if update.round < number), default=-1)
        there = {update.sample for update in known if update.round == number}
        missing = [sample for sample in range(first, first + self.wanted) if sample not in there]
        texts = [update.update for update in known]
        for sample, explanation, reason in self._explanations(example, attempt, missing, texts):
            yield Update(
                example.example_id, example.task, explanation.text, self.name, explanation.prompt,
                sample, self.seed, score, reason, number,
            )  # fmt: skip

    def _explanations(
        self, example: Example, attempt: str | None, missing: list[int], texts: list[str]
    ) -> Iterator[tuple[int, Explanation, str]]:
        """With their indices, and what is odd about them."""
        teacher = self._teacher
        if not isinstance(teacher, SamplingTeacher):
            said = teacher.explain(example, attempt, self.wanted, self.seed)
            fresh = dict.fromkeys(explanation for explanation in said if explanation.text not in texts)
            yield from ((sample, explanation, "") for sample, explanation in zip(missing, fresh, strict=False))
            return
        for sample in missing:
            given = teacher.sample(example, attempt, sample, self.seed, texts)
            if given is None:
                return
            texts.append(given[0].text)
            yield sample, *given

    def odd(self) -> str:
        """What came of requests that brought no explanation, or an odd one; empty where there were none."""
        teacher = self._teacher
        if not isinstance(teacher, SamplingTeacher) or not teacher.counts:
            return ""
        told = [
            f"{n} {kind}" + (f" ({s})" if (s := teacher.said.get(kind)) else "") for kind, n in teacher.counts.items()
        ]
        return f"; of the answers: {', '.join(told)}"


def _seen(attempts: Sequence[Attempt]) -> str | None:
    """The attempt that the teacher sees: the first wrong one, else the first; None where there is none."""
    shown = next((attempt for attempt in attempts if not attempt.correct), attempts[0] if attempts else None)
    return shown.generation if shown else None
