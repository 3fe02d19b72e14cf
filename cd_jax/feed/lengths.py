"""What does not fit: counted once for each task and said, or refused. Never the question, never the answer."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from cd_jax.errors import RequestError
from cd_jax.feed.lessons import TokenisedLessons
from cd_jax.feed.tokens import TokenisedExamples
from cd_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Of a task or a mixture, how much loses a part.

    Attributes:
      examples: of the split.
      prompts: examples whose prompt loses its start.
      facts: those of them that lose a supporting fact.
      updates: of the split.
      targets: updates that lose their end, before the answer.
    """

    examples: int
    prompts: int
    facts: int
    updates: int
    targets: int

    def record(self) -> dict[str, float]:
        """Shares, for `results.json`."""
        targets = self.targets / self.updates if self.updates else 0.0
        shares = {"prompts": self.prompts / self.examples, "facts": self.facts / self.examples, "targets": targets}
        return {name: round(share, 4) for name, share in shares.items()}


def row_lengths(vocabulary: seqio.Vocabulary, texts: Sequence[str]) -> np.ndarray:
    """Tokens of each text, with the end of sequence, int `[texts]`."""
    return vocabulary.encode_tf(tf.constant(list(texts), tf.string)).row_lengths().numpy() + 1


class Counter:
    """Counts what does not fit, and says it, each task once."""

    def __init__(self, vocabulary: seqio.Vocabulary, sequence_length: dict[str, int], strict: bool):
        """Counts nothing yet.

        Args:
          vocabulary: of the tasks.
          sequence_length: tokens of a passage (`inputs`) and of a target (`targets`), at most.
          strict: refuses what else would be said.
        """
        self._vocabulary, self._strict = vocabulary, strict
        self._inputs, self._targets = sequence_length["inputs"], sequence_length["targets"]
        self._told: set[tuple[str, str]] = set()

    def count(self, asked: TokenisedExamples, lessons: TokenisedLessons | None, head: int, shortest_head: int) -> Cuts:
        """Of a split.

        Args:
          asked: the examples.
          lessons: what is learnt of them.
          head: tokens that stand before a prompt at most: an ordinal and the longest update; 0 without memory.
          shortest_head: those that cannot be left out: the ordinal.

        Raises:
          RequestError: a question or an answer does not fit; or, where that is asked for, anything.
        """
        self._check_questions(asked, shortest_head)
        self._check_answers(asked, lessons)
        tasks = np.array([example.task for example in asked.examples])
        prompts = asked.inputs.row_lengths().numpy()
        cut = prompts > self._inputs - head
        lost = self._lose_facts(asked.examples, cut, head)
        targets, longest = self._targets_cut(asked, lessons)
        bodies = int((lessons.bodies.row_lengths().numpy() > 0).sum()) if lessons else 0
        for task in dict.fromkeys(tasks):
            of = tasks == task
            self._tell_prompts(
                task, int(of.sum()), int(cut[of].sum()), int(lost[of].sum()), int(prompts[of].max()) + head
            )
            self._tell_targets(task, int(targets[of].sum()), int(longest[of].max()))
        return Cuts(len(tasks), int(cut.sum()), int(lost.sum()), bodies, int(targets.sum()))

    def _check_questions(self, asked: TokenisedExamples, head: int) -> None:
        needed = row_lengths(self._vocabulary, [example.question for example in asked.examples]) + head
        worst = int(needed.argmax())
        if needed[worst] > self._inputs:
            raise RequestError(
                f"INPUT_LENGTH={self._inputs} cuts the question of {asked.examples[worst].example_id}; "
                f"bind it to {needed[worst]} or more"
            )

    def _check_answers(self, asked: TokenisedExamples, lessons: TokenisedLessons | None) -> None:
        needed = (lessons.ends if lessons else asked.targets).row_lengths().numpy()
        worst = int(needed.argmax())
        if needed[worst] > self._targets:
            owner = int(lessons.owners()[worst]) if lessons else worst
            raise RequestError(
                f"TARGET_LENGTH={self._targets} cuts the answer of {asked.examples[owner].example_id}; "
                f"bind it to {needed[worst]} or more"
            )

    def _lose_facts(self, examples: Sequence[Example], cut: np.ndarray, head: int) -> np.ndarray:
        """Whether each example loses a supporting fact, bool `[examples]`."""
        ends: list[str] = []
        owners: list[int] = []
        for row in map(int, np.flatnonzero(cut)):
            example = examples[row]
            # Of a sentence that stands there twice the last one serves.
            starts = [place for fact in example.supporting_facts if (place := example.context.rfind(fact)) >= 0]
            if starts:
                owners.append(row)
                ends.append(example.prompt[min(starts) :])
        lost = np.zeros(len(examples), bool)
        if ends:
            lost[owners] = row_lengths(self._vocabulary, ends) > self._inputs - head
        return lost

    def _targets_cut(self, asked: TokenisedExamples, lessons: TokenisedLessons | None) -> tuple[np.ndarray, np.ndarray]:
        """Of each example the lessons that are cut, and the length of its longest target."""
        answers = asked.targets.row_lengths().numpy()
        cut, longest = np.zeros(len(answers), int), answers.copy()
        if lessons is None:
            return cut, longest
        owner = lessons.owners()
        needed = (lessons.bodies.row_lengths() + lessons.ends.row_lengths()).numpy()
        np.add.at(cut, owner, needed > self._targets)
        np.maximum.at(longest, owner, needed)
        return cut, longest

    def _tell_prompts(self, task: str, examples: int, cut: int, lost: int, needed: int) -> None:
        if cut:
            facts = f", {lost} of them a supporting fact" if lost else ""
            self._tell(
                ("prompts", task),
                f"{task}: {cut} of {examples} prompts are longer than INPUT_LENGTH={self._inputs} allows and lose "
                f"their start{facts}; {needed} would do",
            )

    def _tell_targets(self, task: str, cut: int, needed: int) -> None:
        if cut:
            self._tell(
                ("targets", task),
                f"{task}: {cut} updates are longer than TARGET_LENGTH={self._targets} allows and lose their end; "
                f"{needed} would do",
            )

    def tell_memory(self, cut: int, held: int, room: int, needed: int) -> None:
        """Says how many of the memory's updates lose their end: they have at most half of a passage."""
        if cut:
            self._tell(
                ("memory", ""),
                f"memory: {cut} of {held} updates are longer than the {room} tokens that INPUT_LENGTH={self._inputs} "
                f"leaves them, and lose their end; {needed} would do",
            )

    def _tell(self, what: tuple[str, str], text: str) -> None:
        if self._strict:
            raise RequestError(f"{text} (--strict_lengths)")
        if what not in self._told:
            print(f"[lengths] {text}", flush=True)
        self._told.add(what)
