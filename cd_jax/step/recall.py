"""The memory as the step reads it: its tables on the devices, encoded anew with the parameters of the hour."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from jax.sharding import NamedSharding, PartitionSpec

from cd_jax.feed import formats
from cd_jax.feed.lengths import Counter
from cd_jax.feed.lessons import TokenisedLessons
from cd_jax.feed.pipeline import Feed
from cd_jax.feed.tokens import TokenisedExamples, longest
from cd_jax.losses import contrastive
from cd_jax.memory.episodic import Entry, EpisodicMemory
from cd_jax.memory.negatives import pool, prior
from cd_jax.memory.negatives.pool import Labels, Pool
from cd_jax.memory.negatives.prior import Prior
from cd_jax.solver.solver import Solver
from cd_jax.step.reader import Reader
from cd_jax.step.tables import Memories, Split, Taught
from cd_jax.step.terms import Term
from cd_jax.step.terms.contrastive import Contrast
from cd_jax.types import Attempt

# What a reader saw of each row of a batch, and what was added to it: arrays by name.
Seen = dict[str, Any]

_learn = jax.jit(pool.learn, static_argnames=("temperature", "layout"))
_normalized = jax.jit(contrastive.normalize, donate_argnums=0)


class _Numbers(dict):
    """Numbers for names, in the order in which they are met."""

    def of(self, names: Iterable[str]) -> np.ndarray:
        return np.array([self.setdefault(name, len(self)) for name in names], np.int32)


class Recollection:
    """What a process keeps of its memory on the devices: of each table the rows of its own devices.

    Attributes:
      memory: on the host.
    """

    def __init__(
        self,
        memory: EpisodicMemory,
        vocabulary: seqio.Vocabulary,
        solver: Solver,
        sequence_length: dict[str, int],
        batch_size: int,
        cache_passages: bool,
        terms: tuple[Term, ...],
    ):
        """Makes the tables of what is in memory.

        Args:
          memory: of the agent.
          vocabulary: of the tasks.
          solver: encodes.
          sequence_length: tokens of a passage (`inputs`), at most.
          batch_size: rows encoded at once.
          cache_passages: updates are encoded alone, once for all examples until the next `refresh`.
          terms: of the loss.
        """
        self.memory, self._solver, self._vocabulary = memory, solver, vocabulary
        self._inputs, self._batch_size = sequence_length["inputs"], batch_size
        self._cached, self._terms = cache_passages, terms
        self._contrast = next((term for term in terms if isinstance(term, Contrast)), None)
        # Before anything is written, for its errors.
        memory.make_index(solver.config.emb_dim)
        self._replicated = NamedSharding(solver.mesh, PartitionSpec())
        ordinals = tf.ragged.constant([vocabulary.encode(f"{i + 1}:") for i in range(memory.num_queries)])
        self._ordinals = tuple(map(tuple, ordinals.to_tensor().numpy().tolist()))
        # Of no dimensions where nobody reads them.
        self._vectors = memory.layout.zeros(solver.config.emb_dim if self._contrast else 0)
        self._states: jax.Array | None = None
        self._taught: Taught | None = None
        self.tabulate()

    # Tables

    def tabulate(self) -> None:
        """Makes the tables of what is in memory now, with which feeds of before do not go; `refresh` encodes them."""
        # Numbered anew, whatever splits were met before: the prior counts as many classes after a resumption.
        self._prompts, self._texts, self._tasks, self._answers = (_Numbers() for _ in range(4))
        # Of a prompt the end is read, as in passages; of an update the start.
        layout = self.memory.layout
        self._contexts = layout.place(self._padded(self._ended(self.memory.prompts())[:, -self._inputs :]))
        self._label()
        texts = [entry.update if entry else "" for entry in self.memory.entries]
        said = self._vocabulary.encode_tf(tf.constant(texts))
        self._lengths, self._longest = said.row_lengths().numpy().astype(np.int32), longest(said)
        self._tokens = layout.place(self._padded(said))

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._replicated)

    def _ended(self, texts: Sequence[str]) -> tf.RaggedTensor:
        """Tokens, with the end of sequence where there are any."""
        tokens = self._vocabulary.encode_tf(tf.constant(texts))
        ends = tf.RaggedTensor.from_row_lengths(
            tf.fill([tf.reduce_sum(tf.cast(tokens.row_lengths() > 0, tf.int32))], self._vocabulary.eos_id),
            tf.cast(tokens.row_lengths() > 0, tf.int64),
        )
        return tf.concat([tokens, ends], 1)

    @staticmethod
    def _padded(tokens: tf.RaggedTensor) -> np.ndarray:
        """All tokens, padded with 0 to a multiple of 8."""
        return tokens.to_tensor(shape=(None, -(-max(longest(tokens), 1) // 8) * 8)).numpy()

    def _label(self) -> None:
        """Of every row; -1 where it is free. Counts how many have each task and answer."""
        rows = self.memory.rows()
        entries = [self._entry(row) for row in rows]
        columns = np.full((len(Labels._fields), self.memory.capacity), -1, np.int32)
        columns[:, rows] = (
            self._prompts.of(entry.prompt for entry in entries),
            self._texts.of(entry.update for entry in entries),
            self._tasks.of(entry.task for entry in entries),
            self._answers.of(entry.answer for entry in entries),
        )
        self._labels = Labels(*(self.memory.layout.place(column, -1) for column in columns))
        self._classes = np.unique(columns[2:, rows], axis=1, return_counts=True)

    def _entry(self, row: int) -> Entry:
        entry = self.memory.entries[row]
        assert entry
        return entry

    def study(self, source: TokenisedExamples, lessons: TokenisedLessons) -> None:
        """Takes these for the examples on which the contrastive term learns; of attempts at them nothing is known but
        what stands against their lessons."""
        if not self._contrast:
            return
        self._tasks.of(example.task for example in source.examples)
        self._answers.of(example.answer for example in source.examples)
        (tasks, answers), held = self._classes
        counts = prior.empty(len(self._tasks), len(self._answers))
        counts = prior.count(counts, tasks, answers, jnp.asarray(held, jnp.float32))
        wrong = np.zeros((len(source.examples), self._tokens.shape[1]), np.int32)
        for example, texts in enumerate(lessons.against):
            for text in texts[:1]:
                self._stand_against(wrong[example], lessons, example, text)
        self._taught = self._put(Taught(counts, jnp.asarray(wrong)))

    def split(self, asked: TokenisedExamples, lessons: TokenisedLessons | None) -> Split:
        """What a step looks up of a split."""
        columns = (
            self.memory.owner_ids(asked.families()),
            self._prompts.of(example.prompt for example in asked.examples),
            self._tasks.of(example.task for example in asked.examples),
            self._answers.of(example.answer for example in asked.examples),
            self._numbered(lessons.updates if lessons else ()),
        )
        return Split(*self._put(columns))

    def _numbered(self, updates: Sequence[str]) -> np.ndarray:
        """-1 where a lesson is of no update."""
        return np.where([update == "" for update in updates], -1, self._texts.of(updates)).astype(np.int32)

    # The parameters of the hour

    def refresh(self, params: Any) -> None:
        """Encodes keys, and what else is encoded, with these parameters; all stays on the devices."""
        solver, size = self._solver, self._batch_size
        self.memory.write(solver.encode_rows(params, self._contexts, size, "pool"))
        if self._contrast:
            self._vectors = _normalized(solver.encode_rows(params, self._tokens, size, "pool"))
        if self._cached:
            self._states = solver.encode_rows(params, self._tokens, size, "encode")

    # The step

    @property
    def ordinal_length(self) -> int:
        """Tokens of an ordinal, at most."""
        return len(self._ordinals[0])

    @property
    def longest_update(self) -> int:
        """Tokens of the memory's longest update; 0 where passages hold prompts alone."""
        return 0 if self._cached else self._longest

    def tell_lengths(self, counter: Counter) -> None:
        """Says how many updates lose their end beside a prompt."""
        if self._cached:
            return
        lengths, room = self._lengths, self._inputs // 2
        counter.tell_memory(int((lengths > room).sum()), len(self.memory.rows()), room, 2 * int(lengths.max()))

    def reading(self, feed: Feed, training: bool) -> tuple[Reader, Memories]:
        """What extends the batches of a feed, an equal one for equal lengths, and what it reads."""
        assert feed.split
        # A passage that would be longer loses the prompt's start, and of the update what exceeds half of it.
        needed = max(len(self._ordinals[0]) + self._longest + feed.lengths["inputs"], 2 * self._longest)
        memory, length = self.memory, min(self._inputs, -(-needed // 8) * 8)
        reader = Reader(
            memory.picked,
            memory.look_up,
            memory.count,
            self._ordinals,
            length=length,
            room=max(min(length // 2, length - self.ordinal_length - feed.question), 0),
            queries=memory.train_retrieval if training else "fixed",
            terms=self._terms if training else (),
            layout=memory.layout,
        )
        return reader, Memories(memory.store, self._candidates(), feed.split, self._states, self._taught)

    def _candidates(self) -> Pool:
        return Pool(self._vectors, self._tokens, self._labels)

    def own_tokens(self, feed: Feed, rows: np.ndarray) -> np.ndarray:
        """Which tokens of the passages of an evaluation are of the updates.

        Args:
          feed: of the batch.
          rows: int32 `[batch, passages]`, what was retrieved; -1: nothing.

        Returns:
          bool `[batch, passages, length]`.
        """
        reader = self.reading(feed, training=False)[0]
        start = (np.array(self._ordinals) != 0).sum(-1)[None, :, None]
        read = np.where(rows < 0, 0, np.minimum(self._lengths[rows], reader.room))[..., None]
        position = np.arange(reader.length)[None, None]
        return (position >= start) & (position < start + read)

    def count_use(self, seen: Seen) -> None:
        """Counts what a step retrieved."""
        if "rows" in seen:
            self.memory.count_use(seen["rows"])

    def told(self, seen: Seen) -> list[tuple[list[dict[str, Any]], float | None]]:
        """`Attempt.retrieved` and `Attempt.prompt_attention` of each row, of which `attention` was seen, too."""
        rows, queries, distances, shares = (
            np.asarray(seen[name]).tolist() for name in ("rows", "queries", "distances", "attention")
        )
        told = []
        for *found, attention in zip(rows, queries, distances, shares, strict=True):
            prompt = round(attention.pop(0), 4)
            of_row = zip(*found, attention, strict=True)
            told.append(([self._told(*of_query) for of_query in of_row if of_query[0] >= 0], prompt))
        return told

    def _told(self, row: int, query: int, distance: float, attention: float) -> dict[str, Any]:
        entry = self._entry(row)
        return {
            "query": f"axis {query}" if query else "key",
            "update": entry.update,
            "example_id": entry.example_id,
            "distance": round(distance, 4),
            "attention": round(attention, 4),
        }

    # What the verifier says of attempts

    def learn(self, feed: Feed, examples: np.ndarray, seen: Seen, attempts: Sequence[Attempt]) -> None:
        """Learns from the solver's attempts at source examples, right after `refresh`.

        Args:
          feed: of the source, with its updates.
          examples: int32 `[attempts]`.
          seen: of each attempt.
          attempts: the prior learns whether they are right; what is said before a wrong answer becomes a negative,
            unless it is what the teacher says, too.
        """
        assert feed.split and feed.lessons and self._taught and self._contrast
        split = feed.split
        nowhere = jnp.full(len(examples), -1)
        anchors = Labels(split.prompts[examples], nowhere, split.tasks[examples], split.answers[examples])
        correct = jnp.array([attempt.correct for attempt in attempts], jnp.float32)
        counts = _learn(
            self._candidates(), self._taught.counts, seen["contexts"], anchors, seen["rows"], correct,
            temperature=self._contrast.temperature, layout=self.memory.layout,
        )  # fmt: skip
        wrong = np.zeros((len(attempts), self._taught.wrong.shape[1]), np.int32)
        for row, example, attempt in zip(wrong, examples, attempts, strict=True):
            if not attempt.correct:
                self._stand_against(row, feed.lessons, example, formats.parse_update(attempt.generation))
        self._taught = self._put(Taught(counts, self._taught.wrong.at[examples].set(wrong)))

    def _stand_against(self, row: np.ndarray, lessons: TokenisedLessons, example: int, text: str) -> None:
        """Writes the tokens of a text into `[length]`, unless it is the start of what the teacher says of the example,
        of which targets may lack the end."""
        said = self._vocabulary.encode(text)[: len(row)]
        explained = (lessons.update_tokens[choice].numpy().tolist() for choice in lessons.choices[example])
        if not any(tokens[: len(said)] == said for tokens in explained):
            row[: len(said)] = said

    def state(self, encoded: bool = False) -> dict[str, np.ndarray | jax.Array]:
        """What a checkpoint keeps beside the parameters.

        Args:
          encoded: also what was encoded, with other parameters than those at hand; with these it can be made again.

        Returns:
          Arrays of the host, whole on each; and what was encoded, a row for each of the memory's, where it lies.
        """
        kept: dict[str, Any] = {"used": self.memory.used}
        if self._taught:
            taught = {f"prior_{name}": counts for name, counts in self._taught.counts._asdict().items()}
            kept |= jax.device_get(taught | {"wrong_updates": self._taught.wrong})
        if encoded and self.memory.is_written:
            kept |= self.memory.stored()
            kept |= jax.device_get({name: kept[name] for name in ("mean", "axes")})
            kept |= {"vectors": self._vectors} if self._contrast else {}
            kept |= {"states": self._states} if self._states is not None else {}
        return kept

    def set_state(self, state: Mapping[str, np.ndarray | jax.Array], params: Any) -> None:
        """Goes on from `state`, after `study`; what it has no encoding of is encoded with these parameters.

        Encoded rows may lie anywhere, and be filled up for another number of devices.
        """
        layout = self.memory.layout
        self.memory.set_used(np.asarray(state["used"])[: layout.capacity])
        if self._taught:
            names = [f"prior_{name}" for name in Prior._fields]
            *counts, wrong = self._put(tuple(np.asarray(state[name]) for name in (*names, "wrong_updates")))
            self._taught = Taught(Prior(*counts), wrong)
        if "keys" not in state:
            self.refresh(params)
            return
        known = (state["mean"], state["axes"]) if "mean" in state else None
        keys = state["keys"]
        # What lies as the memory's rows do is taken over, and the caller's is not.
        self.memory.write(jnp.copy(keys) if isinstance(keys, jax.Array) else keys, known)
        if self._contrast:
            self._vectors = layout.fit(state["vectors"])
        self._states = layout.fit(state["states"]) if "states" in state else None
