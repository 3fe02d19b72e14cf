"""The self-learning process: proposal, solver, verifier, update and memory in turn (arXiv 2212.11353, section 2).

The policies do not know one another; what passes between them passes through here.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import gin
import jax
import numpy as np
import seqio
import tensorflow as tf

from cd_jax.config.ranges import PositiveFloat, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.feed.lengths import Counter, row_lengths
from cd_jax.feed.pipeline import Draw, Feed
from cd_jax.feed.tokens import TokenisedExamples, TokenisedUpdates, longest, no_updates
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.solver.decoding import Decoding
from cd_jax.solver.solver import Batch, Solver, TrainState
from cd_jax.step.reader import Contrast, Split
from cd_jax.step.recall import Recollection, Seen
from cd_jax.types import Attempt, Example, Update
from cd_jax.verifier import answers


@dataclasses.dataclass(frozen=True)
class Agent:
    """What sets the compared agents apart.

    Attributes:
      explains: the target is `u answer: y` instead of `answer: y`.
      remembers: updates are indexed in memory and retrieved into the solver's input.
    """

    explains: bool
    remembers: bool


AGENTS = {
    "baseline": Agent(explains=False, remembers=False),
    "cd_finetune": Agent(explains=True, remembers=False),
    "cd_memory": Agent(explains=True, remembers=True),
}


# How the solver attempts examples of the source, whatever gin binds for evaluation.
_PRACTICE = Decoding(temperature=1.0, top_k=0, top_p=1.0, num_samples=1, num_beams=1, length_penalty=1.0)


@gin.configurable
class SelfLearningProcess:
    """Joins the five policies for one agent."""

    def __init__(
        self,
        agent: Agent,
        vocabulary: seqio.Vocabulary,
        solver: Solver,
        memory: EpisodicMemory | None,
        sequence_length: dict[str, PositiveInt],
        answer_weight: PositiveFloat = 1.0,
        eval_batch_size: PositiveInt = 100,
        verifier: Callable[[], answers.Verifier] = answers.ChrF,
        decoding: Callable[[], Decoding] = Decoding,
        contrast: Callable[[], Contrast] = Contrast,
        cache_passages: bool = False,
        strict_lengths: bool = False,
        ask_without_memory: bool = True,
    ):
        """Joins them.

        Args:
          agent: of `AGENTS`.
          vocabulary: of the tasks.
          solver: the network on its mesh.
          memory: for agents that remember; filled.
          sequence_length: tokens of a passage (`inputs`) and of the generation (`targets`), at most.
          answer_weight: of the answer's tokens in the loss.
          eval_batch_size: examples decoded at once; a multiple of the mesh's `data` axis.
          verifier: makes the graded verifier; an answer is correct by exact match.
          decoding: makes the way in which attempts are decoded; greedy, unless `Decoding` is bound otherwise.
          contrast: makes the contrastive term; agents without memory have none.
          cache_passages: what is retrieved is encoded alone, without an ordinal, once for all until keys are encoded
            anew, and read beside the prompt; otherwise it is encoded with the prompt, for every example.
          strict_lengths: refuses a task of which something does not fit; otherwise it is said. A question or an answer
            that does not fit is refused in any case.
          ask_without_memory: where it is told what memory gave, the prompt is decoded alone, too.

        Raises:
          RequestError: a batch that the mesh does not divide, or a binding of the memory's index is wrong.
        """
        self.agent = agent
        self.solver = solver
        self._vocabulary = vocabulary
        self._lengths = sequence_length
        self._eval_batch_size = self.check_batch_size("eval_batch_size", eval_batch_size)
        self._converter = PassagesFeatureConverter(vocabulary, 0, answer_weight)
        self._exact, self._graded = answers.ExactMatch(), verifier()
        self._decoding = decoding()
        term = contrast()
        self._contrast = term if memory and term.weight else None
        self._recollection = (
            Recollection(memory, vocabulary, solver, sequence_length, eval_batch_size, cache_passages, self._contrast)
            if memory
            else None
        )
        self._practice: Feed | None = None
        self._ask_without_memory = ask_without_memory
        self._counter = Counter(vocabulary, sequence_length, strict_lengths)
        if self._recollection:
            self._recollection.tell_lengths(self._counter)
        self._settings: dict[str, Any] = {
            "sequence_length": sequence_length,
            "answer_weight": answer_weight,
            "num_queries": memory.num_queries if memory else 0,
            "num_axes": memory.num_axes if memory else 0,
        }
        if memory:
            self._settings["memory"] = memory.settings() | {"cache_passages": cache_passages}
        if self._contrast:
            self._settings["contrast"] = dataclasses.asdict(self._contrast)

    @property
    def decoding(self) -> Decoding:
        """How attempts are decoded."""
        return self._decoding

    def settings(self) -> dict[str, Any]:
        """What a checkpoint records of the process: with other values it would not go on as it began."""
        return self._settings

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

    def feed(self, asked: TokenisedExamples, batch_size: int, updates: TokenisedUpdates | None = None) -> Feed:
        """The input pipeline of a split.

        Args:
          asked: the examples.
          batch_size: of all hosts together.
          updates: of `tokenised_updates`; None where there is nothing to learn from.
        """
        updates = updates or no_updates(len(asked.examples))
        split = self._recollection.split(asked, updates) if self._recollection else None
        return self._feed(asked, batch_size, updates, split)

    def _feed(self, asked: TokenisedExamples, batch_size: int, updates: TokenisedUpdates, split: Split | None) -> Feed:
        # Less than `sequence_length` where nothing of this task is so long: padding costs as much as words do.
        needed = {"inputs": longest(asked.inputs), "targets": longest(asked.targets) + longest(updates.tokens)}
        inputs, targets = (min(self._lengths[k], -(-needed[k] // 8) * 8) for k in ("inputs", "targets"))
        lengths = {"inputs": inputs, "targets": targets, "update": targets, "memory": inputs}
        question = int(row_lengths(self._vocabulary, [example.question for example in asked.examples]).max())
        cuts = self._counter.count(asked, updates, *self._heads())
        return Feed(asked, updates, split, self._converter, lengths, batch_size, question, cuts.record())

    def _heads(self) -> tuple[int, int]:
        """Tokens that stand before a prompt: at most, and at least."""
        if not self._recollection:
            return 0, 0
        ordinal = self._recollection.ordinal_length
        return ordinal + min(self._recollection.longest_update, self._lengths["inputs"] // 2), ordinal

    def eval_feed(self, asked: TokenisedExamples) -> Feed:
        """The input pipeline for `attempt`."""
        return self.feed(asked, self._eval_batch_size)

    def tokenised_updates(self, source: TokenisedExamples, updates: dict[str, list[Update]]) -> TokenisedUpdates:
        """All updates of the source.

        Raises:
          RequestError: an example has none.
        """
        if not self.agent.explains:
            return no_updates(len(source.examples))
        texts: list[str] = []
        choices = []
        for example in source.examples:
            own = updates.get(example.example_id, [])
            if not own:
                raise RequestError(f"no update explains {example.example_id}; run `cd_jax distill` on this source")
            choices.append(np.arange(len(texts), len(texts) + len(own)))
            texts += [update.update for update in own]
        return TokenisedUpdates(texts, self._vocabulary.encode_tf(tf.constant(texts)), choices)

    def draw(self, proposal: DeterministicIterator, choices: list[np.ndarray], epoch: int) -> Draw:
        """What an epoch shows.

        Args:
          proposal: orders the examples.
          choices: for each example, the indices of its updates.
          epoch: its number; the update of an example is drawn afresh, uniformly, in each.
        """
        order = proposal.propose(epoch).reshape(-1)
        drawn = np.random.default_rng((proposal.seed, epoch, 1)).random(len(order))
        counts = np.array([len(c) for c in choices])[order]
        first = np.array([c[0] if len(c) else -1 for c in choices])[order]
        updates = np.where(counts > 0, first + (drawn * counts).astype(np.int64), -1)
        return Draw(order.astype(np.int32), updates.astype(np.int32))

    def as_prompt(self, example: Example) -> TokenisedExamples:
        """One example that no task holds."""
        inputs = [[*self._vocabulary.encode(example.prompt), self._vocabulary.eos_id]]
        return TokenisedExamples([example], tf.ragged.constant(inputs, tf.int32), tf.ragged.constant([[0]], tf.int32))

    # Memory

    def remember(self, params) -> None:
        """Encodes the memory's keys with these parameters."""
        if self._recollection:
            self._recollection.refresh(params)

    def save_memory(self, directory: pathlib.Path) -> None:
        """Writes `memory/` with the keys of the last `remember`, where there is a memory."""
        if not self._recollection:
            return
        self._recollection.memory.save(directory / "memory")
        if left_out := self._recollection.memory.left_out:
            print(
                f"cd_jax: {left_out} keys of the memory are not finite, and are not found", file=sys.stderr, flush=True
            )

    def state(self, encoded: bool = False) -> dict[str, np.ndarray]:
        """What a checkpoint keeps of the memory, see `Recollection.state`; nothing for agents without."""
        return self._recollection.state(encoded) if self._recollection else {}

    def set_state(self, state: dict[str, np.ndarray], params: Any) -> None:
        """Goes on from `state`, of which these are the parameters."""
        if self._recollection:
            self._recollection.set_state(state, params)

    # Training

    def study(self, source: TokenisedExamples, batch_size: int, updates: dict[str, list[Update]]) -> Feed:
        """The input pipeline of the source, from which the solver, and what the memory has of it, learns.

        Raises:
          RequestError: an example has no update, the mesh does not divide the batch, or there are fewer candidates
            than negatives.
        """
        self.check_batch_size("batch_size", batch_size)
        if self._contrast and self._recollection:
            in_batch = self._contrast.sampler == "in_batch"
            others = batch_size // self.solver.num_microbatches if in_batch else self._recollection.memory.capacity
            self._contrast.check_candidates(others)
        if self._recollection:
            self._recollection.study(source)
        explained = self.tokenised_updates(source, updates)
        feed = self.feed(source, batch_size, explained)
        if self._contrast and self._contrast.attempts:
            self._practice = self._feed(source, self._eval_batch_size, explained, feed.split)
        return feed

    def prepare(self, params, epoch: int, seed: int) -> None:
        """Before an epoch: keys with the current parameters; with a contrastive term, attempts at source examples."""
        self.remember(params)
        feed = self._practice
        if not feed or not self._recollection or not self._contrast:
            return
        random = np.random.default_rng((seed, epoch, 3))
        rows = random.permutation(len(feed.asked.examples))[: self._contrast.attempts].astype(np.int32)
        attempts, seen = self._attempt(params, feed, rows, _PRACTICE, int(random.integers(2**31)))
        self._recollection.learn(feed, rows, seen, attempts)

    def train_step(self, state: TrainState, batch: Batch, feed: Feed, seed: int) -> tuple[TrainState, dict[str, Any]]:
        """One update of the solver on a batch of a feed of `study`; see `Solver.train_step`.

        Returns:
          The state after it; `loss`, `grad_norm` and, where there is one, `contrastive_loss`, weighted as it is added.
        """
        if not self._recollection:
            return self.solver.train_step(state, batch, seed)
        state, metrics = self.solver.train_step(state, batch, seed, *self._recollection.reading(feed, training=True))
        self._recollection.count_use(metrics.pop("seen"))
        contrastive = metrics.pop("added")
        return state, metrics | ({"contrastive_loss": contrastive} if self._contrast else {})

    # Evaluation

    def attempt(
        self, params, feed: Feed, tell: bool = True, between: Callable[[], None] = lambda: None
    ) -> list[Attempt]:
        """Decodes every example and verifies the answers. `remember` comes first, for agents that do.

        Args:
          params: of the solver.
          feed: of `eval_feed`.
          tell: what was retrieved and attended to, which takes a pass of the solver more.
          between: called before each batch; what it raises ends the attempt.
        """
        rows = np.arange(len(feed.asked.examples), dtype=np.int32)
        return self._attempt(params, feed, rows, self._decoding, 0, tell, between)[0]

    def _attempt(
        self,
        params,
        feed: Feed,
        rows: np.ndarray,
        method: Decoding,
        seed: int,
        tell: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> tuple[list[Attempt], Seen]:
        """Attempts at some examples, and what the reader saw of each."""
        filled = np.resize(rows, -(-len(rows) // self._eval_batch_size) * self._eval_batch_size)
        batches = feed.batches(Draw(filled, np.full(len(filled), -1, np.int32)))
        parts = []
        for i, batch in enumerate(batches):
            between()
            parts.append(self._write_out(params, feed, batch, method, seed + i, tell))
        texts = [text for written, _ in parts for text in written][: len(rows)]
        seen = {name: np.concatenate([part[name] for _, part in parts])[: len(rows)] for name in parts[0][1]}
        return self._verify([feed.asked.examples[row] for row in rows], texts, seen), seen

    def _write_out(
        self, params, feed: Feed, batch: Batch, method: Decoding, seed: int, tell: bool
    ) -> tuple[list[str], Seen]:
        """The generations of a batch, and what was seen: the reader's, and, where it is to be told, `attention`."""
        passages, cached = batch["encoder_input_tokens"], None
        seen: Seen = {}
        if self._recollection:
            read, seen = self.solver.read(params, batch, *self._recollection.reading(feed, training=False))
            passages, cached = read["encoder_input_tokens"], read.get("cached")
        tokens = self.solver.generate(params, passages, self._lengths["targets"], method, seed, cached)
        if self._recollection and tell:
            rows = np.asarray(seen["rows"])
            groups, own = (rows.shape[1], None) if cached else (0, self._recollection.own_tokens(feed, rows))
            seen["attention"] = self.solver.attended(params, passages, tokens, cached, groups, own)
            if self._ask_without_memory:
                alone = self.solver.generate(
                    params, batch["encoder_input_tokens"], self._lengths["targets"], method, seed
                )
                seen["without_memory"] = np.array(self._texts(alone), object)
        return self._texts(tokens), jax.device_get(seen)

    def _texts(self, tokens: np.ndarray) -> list[str]:
        return [text.decode() for text in self._vocabulary.decode_tf(tokens).numpy()]

    def _verify(self, asked: list[Example], generations: list[str], seen: Seen) -> list[Attempt]:
        predictions = [answers.parse_answer(generation) for generation in generations]
        expected = [example.answer for example in asked]
        exact, graded = self._exact(predictions, expected), self._graded(predictions, expected)
        nothing: list[tuple[list[dict[str, Any]], float | None]] = [([], None)] * len(asked)
        told = self._recollection.told(seen) if self._recollection and "attention" in seen else nothing
        alone: list[str | None] = [answers.parse_answer(text) for text in seen.get("without_memory", ())]
        alone = alone or [None] * len(asked)
        return [
            Attempt(example, generations[i], predictions[i], exact[i] == 1.0, graded[i], *told[i], alone[i])
            for i, example in enumerate(asked)
        ]
