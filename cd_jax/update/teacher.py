"""What an update policy is: a teacher that explains why the right answer differs from what was expected."""

from typing import NamedTuple, Protocol

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
