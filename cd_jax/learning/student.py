"""The student: the solver with its memory, as an agent has it. It reads, is taught, and attempts.

The policies do not know one another; what passes between them passes through here and `loop`.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from cd_jax.config.ranges import PositiveFloat, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.feed import formats, lessons
from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.feed.lengths import Counter, row_lengths
from cd_jax.feed.lessons import TokenisedLessons
from cd_jax.feed.pipeline import Draw, Feed, Share
from cd_jax.feed.tokens import TokenisedExamples, longest
from cd_jax.learning.agent import Agent
from cd_jax.learning.likelihood import Likelihood
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.memory.values import choose_entries
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.solver.decoding import Decoding
from cd_jax.solver.solver import Batch, Solver
from cd_jax.step.reader import Reader
from cd_jax.step.recall import Recollection, Seen
from cd_jax.step.tables import Split
from cd_jax.step.terms.contrastive import Contrast
from cd_jax.types import Attempt, Example, Lesson, Update
from cd_jax.verifier import answers

# Called before each batch that is decoded; what it raises ends the work.
Between = Callable[[], None]


# Under the name that gin files of users have for it.
@gin.configurable("SelfLearningProcess")
@dataclasses.dataclass(frozen=True)
class Settings:
    """How a student reads and writes, whichever agent it is.

    Attributes:
      sequence_length: tokens of a passage (`inputs`) and of the generation (`targets`), at most.
      answer_weight: of the answer's tokens in the loss.
      eval_batch_size: examples decoded at once; a multiple of the mesh's `data` axis.
      decoding: makes the way in which attempts are decoded; greedy, unless `Decoding` is bound otherwise.
      cache_passages: what is retrieved is encoded alone, without an ordinal, once for all until keys are encoded anew,
        and read beside the prompt; otherwise it is encoded with the prompt, for every example.
      strict_lengths: refuses a task of which something does not fit; otherwise it is said. A question or an answer that
        does not fit is refused in any case.
      ask_without_memory: where it is told what memory gave, the prompt is decoded alone, too.
    """

    sequence_length: dict[str, PositiveInt]
    answer_weight: PositiveFloat = 1.0
    eval_batch_size: PositiveInt = 100
    decoding: Callable[[], Decoding] = Decoding
    cache_passages: bool = False
    strict_lengths: bool = False
    ask_without_memory: bool = True


# How the solver attempts examples of the source, whatever gin binds for evaluation.
_PRACTICE = Decoding(temperature=1.0, top_k=0, top_p=1.0, num_samples=1, num_beams=1, length_penalty=1.0)


class Student:
    """The solver and the memory of one agent.

    Attributes:
      agent: whose it is.
      solver: the network on its mesh.
      decoding: how attempts are decoded.
      answer_weight: of the answer's tokens in the loss.
      memory: of the agent; None where it has none.
    """

    def __init__(
        self,
        agent: Agent,
        vocabulary: seqio.Vocabulary,
        solver: Solver,
        memory: EpisodicMemory | None,
        settings: Settings,
    ):
        """Joins them.

        Args:
          agent: see `Student`.
          vocabulary: of the tasks.
          solver: see `Student`.
          memory: see `Student`.
          settings: how it reads and writes.

        Raises:
          RequestError: a batch that the mesh does not divide, or a binding of the memory's index is wrong.
        """
        self.agent, self.solver, self.memory = agent, solver, memory
        self.decoding, self.answer_weight = settings.decoding(), settings.answer_weight
        self._vocabulary, self._settings, self._lengths = vocabulary, settings, settings.sequence_length
        self.check_batch_size("eval_batch_size", settings.eval_batch_size)
        self._converter = PassagesFeatureConverter(vocabulary, 0, settings.answer_weight)
        self._exact, self._graded = answers.ExactMatch(), agent.verifier()
        self._terms = tuple(term for term in agent.terms if term.weight)
        self._contrast = next((term for term in self._terms if isinstance(term, Contrast)), None)
        if self._contrast and memory is None:
            raise RequestError("Contrast draws its negatives from a memory, and the agent has none; bind Agent.value")
        self._recollection = (
            Recollection(
                memory, vocabulary, solver, self._lengths, settings.eval_batch_size, settings.cache_passages,
                self._terms,
            )
            if memory
            else None
        )  # fmt: skip
        self._practice: Feed | None = None
        self._used_before: list[np.ndarray] = []
        self._counter = Counter(vocabulary, self._lengths, settings.strict_lengths)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint records of it: with other values it would not go on as it began."""
        memory, settings = self.memory, self._settings
        found: dict[str, Any] = {
            "sequence_length": self._lengths,
            "answer_weight": settings.answer_weight,
            "num_queries": memory.num_queries if memory else 0,
            "num_axes": memory.num_axes if memory else 0,
        }
        if memory:
            found["memory"] = memory.settings() | {"cache_passages": settings.cache_passages}
        if self._contrast:
            found["contrast"] = dataclasses.asdict(self._contrast)
        return found

    def check_batch_size(self, name: str, batch_size: int) -> int:
        """The batch size, where the shards of the mesh divide it.

        Raises:
          RequestError: it does not.
        """
        shards = self.solver.batch_shards * (self.solver.num_microbatches if name == "batch_size" else 1)
        if batch_size < 1 or batch_size % shards:
            raise RequestError(
                f"{name}={batch_size} is not a multiple of {shards}, the shards of a batch on the mesh (times the "
                "microbatches of a step); bind another"
            )
        return batch_size

    # The input

    def feed(self, asked: TokenisedExamples, batch_size: int, learnt: TokenisedLessons | None = None) -> Feed:
        """The input pipeline of a split.

        Args:
          asked: the examples.
          batch_size: of all hosts together.
          learnt: their lessons; None where there is nothing to learn from.
        """
        return self._feed(asked, batch_size, learnt, self._split(asked, learnt))

    def _split(self, asked: TokenisedExamples, learnt: TokenisedLessons | None) -> Split | None:
        return self._recollection.split(asked, learnt) if self._recollection else None

    def _feed(
        self, asked: TokenisedExamples, batch_size: int, learnt: TokenisedLessons | None, split: Split | None
    ) -> Feed:
        # Less than `sequence_length` where nothing of this task is so long: padding costs as much as words do.
        needed = {"inputs": longest(asked.inputs), "targets": longest(asked.targets)}
        if learnt:
            needed["targets"] = longest(learnt.ends) + longest(learnt.bodies)
        inputs, targets = (min(self._lengths[k], _rounded(needed[k])) for k in ("inputs", "targets"))
        lengths = {"inputs": inputs, "targets": targets, "update": targets, "memory": inputs}
        if learnt and self._terms:
            lengths["positive"] = _rounded(max(longest(learnt.update_tokens), 1))
        question = int(row_lengths(self._vocabulary, [example.question for example in asked.examples]).max())
        cuts = self._counter.count(asked, learnt, *self._heads())
        share = Share(batch_size, self.solver.local_rows(batch_size))
        return Feed(asked, learnt, split, self._converter, lengths, share, question, cuts.record())

    def _heads(self) -> tuple[int, int]:
        """Tokens that stand before a prompt: at most, and at least."""
        if not self._recollection:
            return 0, 0
        ordinal = self._recollection.ordinal_length
        return ordinal + min(self._recollection.longest_update, self._lengths["inputs"] // 2), ordinal

    def eval_feed(self, asked: TokenisedExamples) -> Feed:
        """The input pipeline for `attempt`."""
        return self.feed(asked, self._settings.eval_batch_size)

    def draw(self, proposal: DeterministicIterator, choices: list[np.ndarray], epoch: int) -> Draw:
        """What an epoch shows.

        Args:
          proposal: orders the examples.
          choices: for each example, the indices of its lessons.
          epoch: its number; the lesson of an example is drawn afresh, uniformly, in each.
        """
        order = proposal.propose(epoch).reshape(-1)
        drawn = np.random.default_rng((proposal.seed, epoch, 1)).random(len(order))
        counts = np.array([len(c) for c in choices])[order]
        first = np.array([c[0] for c in choices])[order]
        return Draw(order.astype(np.int32), (first + (drawn * counts).astype(np.int64)).astype(np.int32))

    def as_prompt(self, *examples: Example) -> TokenisedExamples:
        """Examples that no task holds, at least one."""
        inputs = [[*self._vocabulary.encode(example.prompt), self._vocabulary.eos_id] for example in examples]
        answers = tf.ragged.constant([[0]] * len(examples), tf.int32)
        return TokenisedExamples(list(examples), tf.ragged.constant(inputs, tf.int32), answers)

    # Memory

    def begin_round(self, used: np.ndarray | None = None) -> None:
        """Before a round takes something into memory.

        Args:
          used: how often each row had been retrieved then, where the round is gone through again.
        """
        if self.memory is None:
            return
        if used is not None:
            self.memory.set_used(used)
        self._used_before.append(self.memory.used)

    def remember(self, examples: Sequence[Example], updates: Mapping[str, Sequence[Update]], seed: int) -> int:
        """Takes into memory what the agent remembers of examples, where it has one; keys come with `refresh`.

        Args:
          examples: of the source, or of a task that is told to a trained agent.
          updates: by `example_id`.
          seed: of the choice, where there is more than fits.

        Returns:
          How many entries stayed.

        Raises:
          RequestError: less is held than is to be retrieved.
        """
        if self.memory is None or self._recollection is None or self.agent.value is None:
            return 0
        chosen = choose_entries(examples, updates, self.memory.capacity, seed, self.agent.value)
        rows = self.memory.add(chosen)
        self.memory.introduce(examples)
        self.memory.check_enough()
        self._recollection.tabulate()
        self._recollection.tell_lengths(self._counter)
        return len(set(rows[rows >= 0].tolist()))

    def retabulate(self) -> None:
        """After something was taken out of memory; keys come with `refresh`."""
        if self._recollection:
            self._recollection.tabulate()

    def refresh(self, params) -> None:
        """Encodes the memory's keys with these parameters."""
        if self._recollection:
            self._recollection.refresh(params)

    def save_memory(self, directory: epath.Path) -> None:
        """Writes the memory, where there is one, into its folder."""
        if not self.memory:
            return
        self.memory.save(directory)
        if left_out := self.memory.left_out:
            print(
                f"cd_jax: {left_out} keys of the memory are not finite, and are not found", file=sys.stderr, flush=True
            )

    def state(self, encoded: bool = False) -> dict[str, Any]:
        """What a checkpoint keeps of the memory, see `Recollection.state`, and of `begin_round` `used_before`, int32
        `[rounds, capacity]`; nothing for agents without."""
        if not self._recollection:
            return {}
        before = {"used_before": np.stack(self._used_before)} if self._used_before else {}
        return self._recollection.state(encoded) | before

    def set_state(self, state: Mapping[str, np.ndarray | jax.Array], params: Any) -> None:
        """Goes on from `state`, of which these are the parameters."""
        if self._recollection:
            self._recollection.set_state(state, params)

    # Training

    def study(self, source: TokenisedExamples, batch_size: int, taught: list[list[Lesson]]) -> Feed:
        """The input pipeline of the source, from which the solver, and what the memory has of it, learns.

        Args:
          source: the examples.
          batch_size: of all hosts together.
          taught: the lessons of each.

        Raises:
          RequestError: the mesh does not divide the batch, or there are fewer candidates than negatives.
        """
        self.check_batch_size("batch_size", batch_size)
        learnt = lessons.tokenise(taught, self._vocabulary)
        if self._contrast and self.memory:
            in_batch = self._contrast.sampler == "in_batch"
            self._contrast.check_candidates(
                batch_size // self.solver.num_microbatches if in_batch else self.memory.capacity
            )
        if self._recollection:
            self._recollection.study(source, learnt)
        feed = self.feed(source, batch_size, learnt)
        self._practice = None
        if self._contrast and self._contrast.attempts:
            self._practice = self._feed(source, self._settings.eval_batch_size, learnt, feed.split)
        return feed

    def prepare(self, params, epoch: int, seed: int) -> None:
        """Before an epoch: keys with the current parameters; with a contrastive term, attempts at source examples."""
        self.refresh(params)
        feed = self._practice
        if not feed or not self._recollection or not self._contrast:
            return
        random = np.random.default_rng((seed, epoch, 3))
        rows = random.permutation(len(feed.asked.examples))[: self._contrast.attempts].astype(np.int32)
        attempts, seen = self._attempt(params, feed, rows, _PRACTICE, int(random.integers(2**31)))
        self._recollection.learn(feed, rows, seen, attempts)

    def reading(self, feed: Feed) -> tuple[Reader | None, Any]:
        """What the solver's training step reads of a feed of `study` beside its batches, see `Solver.train_step`."""
        if self._recollection:
            return self._recollection.reading(feed, training=True)
        return (Reader(terms=self._terms), None) if self._terms else (None, None)

    def count_use(self, seen: Seen) -> None:
        """Counts what a training step retrieved, of its metrics `seen`."""
        if self._recollection:
            self._recollection.count_use(seen)

    # Attempts

    def likelihood(self, params) -> Likelihood:
        """How likely it finds answers, with the updates that it is given.

        Raises:
          RequestError: what it reads of its memory was encoded alone, which is not how updates are given here.
        """
        if self.memory and self._settings.cache_passages:
            raise RequestError(
                "CACHE_PASSAGES=True: answers are judged by passages that hold the prompt; bind it to False"
            )
        passages = self.memory.num_queries if self.memory else 0
        return Likelihood(self.solver, params, self._vocabulary, self._lengths, passages)

    def attempt(self, params, feed: Feed, tell: bool = True, between: Between = lambda: None) -> list[Attempt]:
        """Decodes every example and verifies the answers. `refresh` comes first, for agents that remember.

        Args:
          params: of the solver.
          feed: of `eval_feed`.
          tell: what was retrieved and attended to, which takes a pass of the solver more.
          between: called before each batch; what it raises ends the attempt.

        Returns:
          One for each example; with `Decoding.num_samples`, so many after one another.
        """
        rows = np.arange(len(feed.asked.examples), dtype=np.int32)
        return self._attempt(params, feed, rows, self.decoding, 0, tell, between)[0]

    def attempt_some(
        self,
        params,
        feed: Feed,
        rows: np.ndarray,
        method: Decoding,
        seed: int,
        between: Between = lambda: None,
        tell: bool = False,
    ) -> list[Attempt]:
        """As `attempt`, of examples int32 `[rows]` of the feed, in a way of its own."""
        return self._attempt(params, feed, rows, method, seed, tell, between)[0]

    def _attempt(
        self,
        params,
        feed: Feed,
        rows: np.ndarray,
        method: Decoding,
        seed: int,
        tell: bool = False,
        between: Between = lambda: None,
    ) -> tuple[list[Attempt], Seen]:
        """Attempts at some examples, and what the reader saw of each."""
        size = self._settings.eval_batch_size
        filled = np.resize(rows, -(-len(rows) // size) * size)
        batches = feed.batches(Draw(filled, np.full(len(filled), -1, np.int32)))
        parts = []
        for i, batch in enumerate(batches):
            between()
            parts.append(self._write_out(params, feed, batch, method, seed + i, tell))
        seen = {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}
        return self._verify([feed.asked.examples[row] for row in rows], seen), seen

    def _write_out(self, params, feed: Feed, batch: Batch, method: Decoding, seed: int, tell: bool) -> Seen:
        """What was seen of a batch: `texts` and `log_probs`, `[batch, samples]`, what the reader saw, and, where it is
        to be told, `attention` and `without_memory`."""
        passages, cached = batch["encoder_input_tokens"], None
        seen: Seen = {}
        if self._recollection:
            read, seen = self.solver.read(params, batch, *self._recollection.reading(feed, training=False))
            passages, cached = read["encoder_input_tokens"], read.get("cached")
        length = self._lengths["targets"]
        tokens, scores = self.solver.generate_all(params, passages, length, method, seed, cached)
        # The others of a beam are no samples.
        tokens, scores = tokens[:, : method.num_samples], scores[:, : method.num_samples]
        if self._recollection and tell:
            rows = np.asarray(seen["rows"])
            groups, own = (rows.shape[1], None) if cached else (0, self._recollection.own_tokens(feed, rows))
            seen["attention"] = self.solver.attended(params, passages, tokens[:, 0], cached, groups, own)
            if self._settings.ask_without_memory:
                alone = self.solver.generate(params, batch["encoder_input_tokens"], length, method, seed)
                seen["without_memory"] = self._texts(alone)
        texts = self._texts(tokens.reshape(-1, tokens.shape[-1])).reshape(tokens.shape[:2])
        return jax.device_get(seen) | {"texts": texts, "log_probs": scores}

    def _texts(self, tokens: np.ndarray) -> np.ndarray:
        """Of `[rows, length]`."""
        return np.array([text.decode() for text in self._vocabulary.decode_tf(tokens).numpy()], object)

    def _verify(self, asked: list[Example], seen: Seen) -> list[Attempt]:
        """The attempts at examples, one after the other."""
        texts, log_probs = seen["texts"], seen["log_probs"]
        samples = texts.shape[1]
        generations = texts.reshape(-1).tolist()
        predictions = [formats.parse_answer(generation) for generation in generations]
        expected = [example.answer for example in asked for _ in range(samples)]
        exact, graded = self._exact(predictions, expected), self._graded(predictions, expected)
        told = (
            self._recollection.told(seen) if self._recollection and "attention" in seen else [([], None)] * len(asked)
        )
        alone: list[str | None] = [formats.parse_answer(text) for text in seen.get("without_memory", ())]
        alone = alone or [None] * len(asked)
        attempts = []
        for i in range(len(generations)):
            row, sample = divmod(i, samples)
            known = float(log_probs[row, sample]) if samples > 1 else None
            one = Attempt(asked[row], generations[i], predictions[i], exact[i] == 1.0, graded[i], [])
            if sample == 0:
                # Of the first alone it was seen what it attends to.
                retrieved, attention = told[row]
                one = dataclasses.replace(
                    one, retrieved=retrieved, prompt_attention=attention, without_memory=alone[row]
                )
            attempts.append(dataclasses.replace(one, sample=sample, log_prob=known))
        return attempts


def _rounded(length: int) -> int:
    return -(-length // 8) * 8
