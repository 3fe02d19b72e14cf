"""What a teacher is: it explains why the right answer differs from what was expected."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from cd_jax.rundir.requests import Answer, Requests
from cd_jax.types import Example
from cd_jax.update.teachers.asking import Asking
from cd_jax.update.teachers.budget import TeacherBudget
from cd_jax.update.teachers.requests import Dialogue, Request


class Explanation(NamedTuple):
    """One answer of a teacher.

    Attributes:
      text: why the answer is right, in one line.
      prompt: what the teacher was asked, or the name of the phrasing where it follows rules.
      reason: why it ended as it did where that is odd, see `Update.reason`.
      log_prob: mean log-probability of its tokens; None where it is not known.
      prompt_hash: of the template of the prompt, and of how it was asked; empty where there is none.
    """

    text: str
    prompt: str
    reason: str = ""
    log_prob: float | None = None
    prompt_hash: str = ""


class Teacher(Protocol):
    """Who explains (arXiv 2212.11353, section 2).

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
class AskedTeacher(Teacher, Protocol):
    """A teacher whose answers are paid for: they are kept in a journal by the hash of what was asked.

    Attributes:
      counts: how often there was no explanation, or an odd one, by what was the matter.
      said: what was said of it last, fit to be shown.
      budget: what it may cost.
      prompt_hash: see `Explanation`.
    """

    prompt_hash: str
    counts: dict[str, int]
    said: dict[str, str]
    budget: TeacherBudget

    def dialogue(
        self, example: Example, attempt: str | None, samples: Sequence[int], seed: int, known: Sequence[str]
    ) -> Dialogue:
        """What must be asked for explanations of an example, and what is made of the answers.

        Args:
          example: see `explain`.
          attempt: see `explain`.
          samples: the indices of those that are wanted; the same requests for the same index.
          seed: see `explain`.
          known: the example's explanations so far, none of which counts again.

        Returns:
          A dialogue that ends in pairs of an index and an `Explanation`; an index of which the teacher had nothing new
          to say is left out.
        """
        ...

    def prompt(self, example: Example, attempt: str | None) -> str:
        """What it is asked."""
        ...

    def candidates(self, example: Example, attempt: str | None, samples: Sequence[int], seed: int) -> list[Request]:
        """All requests that such a dialogue may ask for, whatever is answered."""
        ...

    def asking(self, requests: Requests) -> Asking:
        """What carries dialogues on, with a journal."""
        ...

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent for a request, also by another way."""
        ...

    def read_body(self, body: str) -> Answer:
        """The answer in the body of a response that came by another way, e.g. a batch, without secrets."""
        ...
