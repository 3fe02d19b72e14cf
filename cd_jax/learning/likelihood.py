"""How likely the solver finds an answer that is given to it, with or without an update."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from cd_jax.feed import formats
from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.feed.tokens import longest
from cd_jax.solver.solver import Batch, Solver
from cd_jax.types import Example

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Given:
    """An answer, and what the solver has before it.

    Attributes:
      prompt: that it reads.
      answer: y, of which `answer: y` is scored.
      said: what stands before `answer: y` in the target, as if the solver had written it.
      read: updates that stand in its passages, one each; empty texts leave a passage with its ordinal and the prompt.
      whole: what was said is scored, too.
    """

    prompt: str
    answer: str
    said: str = ""
    read: tuple[str, ...] = ()
    whole: bool = False


class Likelihood:
    """The solver with its parameters, as a judge of answers.

    Attributes:
      solver: the network.
      params: its parameters.
      vocabulary: of the tasks.
      passages: updates that it reads beside a prompt; 0 for an agent without memory.
    """

    def __init__(
        self, solver: Solver, params: Any, vocabulary: seqio.Vocabulary, lengths: dict[str, int], passages: int
    ):
        """Scores nothing yet.

        Args:
          solver: see `Likelihood`.
          params: see `Likelihood`.
          vocabulary: see `Likelihood`.
          lengths: tokens of a passage (`inputs`) and of a target (`targets`), at most; what is longer is cut as in
            training.
          passages: see `Likelihood`.
        """
        self.solver, self.params, self.vocabulary, self.passages = solver, params, vocabulary, passages
        self._lengths = lengths
        self._ordinal = len(vocabulary.encode(f"{passages}:")) if passages else 0
        # The weights that rows bring: of the answer alone.
        self._converter = PassagesFeatureConverter(vocabulary, passages)

    def explained(self, example: Example, update: str, place: int = 0) -> Given:
        """The example's answer, given an update as the agent takes it: it reads it, or else has said it.

        Args:
          example: what is asked.
          update: what explains it; empty for none.
          place: of the passage in which it is read.
        """
        if not self.passages:
            return Given(example.prompt, example.answer, said=update)
        read = tuple(update if i == place else "" for i in range(self.passages))
        return Given(example.prompt, example.answer, read=read)

    def log_probs(self, asked: Sequence[Given]) -> tuple[np.ndarray, np.ndarray]:
        """`log p(answer: y | prompt, read, said)`, summed over the tokens of the answer and its end of sequence.

        Args:
          asked: what is scored.

        Returns:
          float32 `[asked]`, in nats, and the number of these tokens, int `[asked]`; with `Given.whole` also of those
          that were said.
        """
        parts = [self._scored(batch) for batch in self._batches(asked)]
        sums, counts = (np.concatenate(part)[: len(asked)] for part in zip(*parts, strict=True))
        return sums, counts

    def states(self, prompts: Sequence[str]) -> np.ndarray:
        """The mean of the encoder's states of each prompt, of which the end counts: float32 `[prompts, embed]`."""
        tokens = self._ended(prompts)[:, -self._lengths["inputs"] :]
        padded = tokens.to_tensor(shape=(None, -(-longest(tokens) // 8) * 8)).numpy()
        return np.asarray(self.solver.encode_rows(self.params, padded, _BATCH))

    def losses(self, asked: Sequence[Given]) -> np.ndarray:
        """The mean of `-log p` over the tokens that `log_probs` counts, in nats: float32 `[asked]`."""
        sums, counts = self.log_probs(asked)
        return -sums / counts

    def _scored(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        weights = batch["decoder_loss_weights"]
        log_probs = self.solver.score(self.params, batch["encoder_input_tokens"], batch["decoder_target_tokens"])
        return (log_probs * weights).sum(1), weights.sum(1).astype(int)

    def _batches(self, asked: Sequence[Given]) -> Iterator[Batch]:
        """The model features of all, the last batch filled with rows from the start."""
        size = _BATCH + -_BATCH % self.solver.batch_shards
        features = self._features(asked)
        rows = np.resize(np.arange(len(asked)), -(-len(asked) // size) * size)
        of_task = tf.data.Dataset.from_tensor_slices(rows).map(lambda row: {k: v[row] for k, v in features.items()})
        return self._converter(of_task, self._needed(features)).batch(size).as_numpy_iterator()

    def _features(self, asked: Sequence[Given]) -> dict[str, Any]:
        """Task features of the converter, of all rows."""
        said = self._encoded([one.said for one in asked])
        return {
            "inputs": self._ended([one.prompt for one in asked]),
            "targets": self._ended([formats.answer(one.answer) for one in asked]),
            "update": said,
            "update_weights": tf.cast(tf.ones_like(said), tf.float32)
            * tf.constant([[float(one.whole)] for one in asked]),
            "target_weight": tf.ones(len(asked)),
            "memory": self._memory(asked),
        }

    def _memory(self, asked: Sequence[Given]) -> tf.Tensor:
        """Tokens of what is read, int32 `[asked, passages, length]`."""
        if not self.passages:
            return tf.zeros([len(asked), 0, 0], tf.int32)
        texts = [text for one in asked for text in (*one.read, *[""] * self.passages)[: self.passages]]
        tokens = self._encoded(texts).to_tensor()
        return tf.reshape(tokens, [len(asked), self.passages, tf.shape(tokens)[-1]])

    def _needed(self, features: dict[str, Any]) -> dict[str, int]:
        """The lengths of the task, where it needs less than there is room for."""
        read = features["memory"].shape[-1]
        inputs = max(self._ordinal + read + longest(features["inputs"]), 2 * read)
        targets = longest(features["update"]) + longest(features["targets"])
        needed = {"inputs": inputs, "targets": targets}
        found = {name: min(self._lengths[name], -(-length // 8) * 8) for name, length in needed.items()}
        return found | {"update": found["targets"], "memory": found["inputs"]}

    def _encoded(self, texts: Sequence[str]) -> tf.RaggedTensor:
        return self.vocabulary.encode_tf(tf.constant(list(texts), tf.string))

    def _ended(self, texts: Sequence[str]) -> tf.RaggedTensor:
        return tf.concat([self._encoded(texts), tf.fill([len(texts), 1], self.vocabulary.eos_id)], 1)
