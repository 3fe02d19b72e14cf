"""What an update policy is: a teacher that explains why the right answer differs from what was expected."""

from typing import NamedTuple, Protocol, runtime_checkable

from cd_jax.types import Example


class Explanation(NamedTuple):
    """One answer of a teacher.

    Attributes:
      text: why the answer is right, in one line.
      prompt: what the teacher was asked, or the name of the phrasing where it follows rules.
    """

    text: str
    prompt: str


class Teacher(Protocol):
    """An update policy (arXiv 2212.11353, section 2).

    Attributes:
      name: who says it; goes into the `teacher` field of `updates.jsonl`.
    """

    name: str

    def explain(self, example: Example, attempt: str | None, num_updates: int, seed: int) -> list[Explanation]:
        """Explains why `example.answer` is right.

        Args:
          example: the task and its expected observation.
          attempt: what the solver generated for it, or None where it was not asked.
          num_updates: how many explanations are wanted.
          seed: makes the choice repeatable, as far as the teacher can.

        Returns:
          At most `num_updates` distinct explanations; fewer where the teacher has no more to say.
        """
        ...


@runtime_checkable
class SamplingTeacher(Teacher, Protocol):
    """A teacher whose every explanation costs a request: each is written down as it comes, and none is asked for twice.

    Attributes:
      counts: how often there was no explanation, or an odd one, by what was the matter.
      said: what was said of it last, fit to be shown.
    """

    counts: dict[str, int]
    said: dict[str, str]

    def sample(
        self, example: Example, attempt: str | None, sample: int, seed: int, known: list[str]
    ) -> tuple[Explanation, str] | None:
        """One explanation, and why it ended as it did where that is odd (see `Update.reason`).

        Args:
          example: see `explain`.
          attempt: see `explain`.
          sample: its index among those of the example; the same request for the same index.
          seed: see `explain`.
          known: the example's explanations so far, none of which counts again.

        Returns:
          None where the teacher has no more to say.
        """
        ...

    def request_hash(self, example: Example, attempt: str | None) -> str:
        """Of all that the teacher is told: where it is another one, the teacher may have more to say."""
        ...
