"""The types that pass between the five policies. Nothing here imports anything of ours."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Example:
    """One task (x, y) of the self-learning process (arXiv 2212.11353, section 2).

    Attributes:
      example_id: unique within its task and split, stable between runs, e.g. `babi_qa1/train/17`.
      task: the name of the SeqIO task that it belongs to, e.g. `babi_qa1`.
      context: what is given, e.g. a story, sentences separated by one space.
      question: what is asked about the context.
      answer: the expected observation y; empty where it was never released.
      supporting_facts: the sentences of the context on which the answer rests, in the order of the context.
      contrast: the complementary statement (Com2Sense), or an empty string.
      pair_id: the same for the two statements of a complementary pair; empty where there are no pairs.
      story_id: the same for the questions about one story; empty where a story has one question.
      domain: the knowledge that a statement of Com2Sense takes: `physical`, `social` or `time`; else empty.
      scenario: how such a statement reasons: `causal` or `comparison`; else empty.
      numeracy: whether it reasons about quantities: `true` or `false`; else empty.
      explanations: why the answer is right, where the data says so.
    """

    example_id: str
    task: str
    context: str
    question: str
    answer: str
    supporting_facts: tuple[str, ...] = ()
    contrast: str = ""
    pair_id: str = ""
    story_id: str = ""
    domain: str = ""
    scenario: str = ""
    numeracy: str = ""
    # Not in its text, by which a run knows its examples: updates are compared for themselves.
    explanations: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def family(self) -> str:
        """What the examples share whose explanations give one another's answers away."""
        return self.pair_id or self.story_id or self.example_id

    @property
    def sentences(self) -> list[str]:
        """Those of the context."""
        return re.split(r"(?<=[.?!])\s+", self.context.strip())

    @property
    def reasons(self) -> list[str]:
        """What the data itself gives for a reason: explanations, the supporting facts, the complementary statement."""
        return [text for text in (*self.explanations, " ".join(self.supporting_facts), self.contrast) if text]

    @property
    def prompt(self) -> str:
        """The text x that the solver reads. The question stands last, next to what is most recent."""
        return f"{self.context} {self.question}".strip()


@dataclasses.dataclass(frozen=True)
class Update:
    """One explanation u of why the answer is right: a line of `updates.jsonl`.

    Attributes:
      example_id: the `Example` that it explains.
      task: that example's task.
      update: the text, at most 200 tokens.
      teacher: who said it, e.g. `oracle` or the model's name at an endpoint.
      prompt: what the teacher was asked; for the oracle, the name of the phrasing.
      sample: the index of this update among those of its example.
      seed: the teacher's seed.
      score: the verifier's score of the solver's attempt that the teacher saw, 0..1; None where it saw none.
      reason: why it ended as it did where that is odd: `length`, cut at the most tokens; else empty.
      round: of the self-learning process in which it was written; 0 before the solver was trained.
      prompt_hash: of the template that the prompt was made of, and of how it was asked; empty where there is none.
      log_prob: of its tokens under the teacher, their mean in nats; None where it is not known.
    """

    example_id: str
    task: str
    update: str
    teacher: str
    prompt: str
    sample: int
    seed: int
    score: float | None = None
    reason: str = ""
    # Not in its text, by which a run knows its updates: there were runs before there were these.
    round: int = dataclasses.field(default=0, repr=False)
    prompt_hash: str = dataclasses.field(default="", repr=False)
    log_prob: float | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a target.

    Attributes:
      text: of it.
      weight: of its tokens in the loss.
    """

    text: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What is learnt of an example: the target z of its prompt x.

    Attributes:
      target: segments, one after the other. The last one is never cut and is followed by the end of sequence, which
        has its weight.
      update: the update that it is of, the positive of terms that compare updates; empty where it is of none.
      against: texts that stand against the update.
    """

    target: tuple[Segment, ...]
    update: str = ""
    against: tuple[str, ...] = ()


_WHERE_KNOWN = ("prompt_attention", "without_memory", "log_prob")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The solver's attempt at an example, and what the verifier says of it.

    Attributes:
      example: what was asked.
      generation: all that the solver wrote.
      prediction: the answer in it.
      correct: it equals the expected one, after normalisation.
      score: of the graded verifier, 0..1.
      retrieved: what the memory gave: `{query, update, example_id, distance, attention}` for each query; `attention` is
        the share of the decoder's attention to the input that went to the update's own tokens.
      prompt_attention: what went to the prompt, wherever it stands, and to ordinals; None without memory.
      without_memory: the answer that the solver gives to the prompt alone; None where it was not asked.
      sample: its index among the attempts at the example.
      log_prob: of the generation under the solver; None where it was not asked.
    """

    example: Example
    generation: str
    prediction: str
    correct: bool
    score: float
    retrieved: list[dict[str, Any]]
    prompt_attention: float | None = None
    without_memory: str | None = None
    sample: int = 0
    log_prob: float | None = None

    def record(self) -> dict[str, Any]:
        """A line of `inference/<task>-<step>.jsonl`."""
        example = self.example
        return {
            "example_id": example.example_id,
            "task": example.task,
            "prompt": example.prompt,
            "answer": example.answer,
            "generation": self.generation,
            "prediction": self.prediction,
            "correct": self.correct if example.answer else None,
            "score": round(self.score, 4) if example.answer else None,
            "retrieved": self.retrieved,
            "pair_id": example.pair_id,
        } | self._where_known()

    def _where_known(self) -> dict[str, Any]:
        more = {"sample": self.sample} if self.sample or self.log_prob is not None else {}
        return more | {name: value for name in _WHERE_KNOWN if (value := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of doing things that an experiment compares with others.

    Attributes:
      name: of its own.
      bindings: of gin, by macro or parameter; text that begins with `@` or `%` is a reference of gin's.
    """

    name: str
    bindings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of an arm.

    Attributes:
      arm: what it does.
      seed: of its parameters and draws.
      model_dir: where it is written.
    """

    arm: Arm
    seed: int
    model_dir: str
