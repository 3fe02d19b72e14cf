"""BLEURT, the paper's verifier, in JAX (arXiv 2004.04696): what a trained network thinks of an answer's meaning."""

import functools
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np

from cd_jax.config.ranges import PositiveInt
from cd_jax.errors import RequestError
from cd_jax.nets.bert import BertRegressor
from cd_jax.verifier import batches
from cd_jax.weights import bleurt


@gin.configurable
class Bleurt:
    """BLEURT's score of an answer against the expected one, brought to 0..1.

    Scores of `BLEURT-20` and its kin are roughly in 0..1, sometimes less or more, and are cut off there; of older
    checkpoints, which have another range, `low` and `high` are to name what becomes 0 and 1.
    """

    name = "bleurt"

    def __init__(
        self,
        checkpoint: str = "",
        batch_size: PositiveInt = 32,
        low: float = 0.0,
        high: float = 1.0,
        allow_test_checkpoint: bool = False,
    ):
        """Reads what the checkpoint says of itself; its parameters are read when the first answer is scored.

        Args:
          checkpoint: an official folder, a PyTorch port with safetensors, or what `fit_bleurt` wrote.
          batch_size: pairs that are scored at once.
          low: the official score that becomes 0, as every lower one.
          high: the official score that becomes 1, as every higher one.
          allow_test_checkpoint: take a checkpoint of 2 layers of 128 as well, as its authors' own test is: it tells
            little of meaning.

        Raises:
          RequestError: there is no such checkpoint, it is damaged, or it is the test's.
        """
        if not checkpoint:
            raise RequestError("Bleurt.checkpoint: nothing is given; bind it to the folder of a checkpoint of BLEURT's")
        if not low < high:
            raise RequestError(f"Bleurt.high={high!r} is not above Bleurt.low={low!r}; bind a larger one")
        self._checkpoint = bleurt.describe(checkpoint)
        if self._checkpoint.is_test and not allow_test_checkpoint:
            raise RequestError(
                f"{checkpoint}: is BLEURT's tiny test checkpoint (2 layers of 128), which tells little of meaning; "
                "take a larger one, such as BLEURT-20-D12, or bind Bleurt.allow_test_checkpoint=True"
            )
        self._low, self._high = low, high
        self._network = BertRegressor(self._checkpoint.config)
        self._batched = batches.Batched(self._apply, batch_size, self._checkpoint.max_length)

    def _apply(self, params: Any, *tokens: jax.Array) -> Any:
        return self._network.apply({"params": params}, *tokens)

    @functools.cached_property
    def _params(self) -> Any:
        return bleurt.read(self._checkpoint, batches.abstract_params(self._network, self._batched.replicated))

    def raw_scores(self, references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        """Official scores.

        Args:
          references: texts.
          candidates: texts, one for each reference.

        Returns:
          A score for each pair, bound to no range.

        Raises:
          RequestError: the parameters cannot be read.
          ValueError: the two are not of the same length.
        """
        tokenizer, longest = self._checkpoint.tokenizer, self._checkpoint.max_length
        pairs = [batches.pair(tokenizer, *texts, longest) for texts in zip(references, candidates, strict=True)]
        return self._batched(self._params, pairs).tolist() if pairs else []

    def __call__(self, predictions: Sequence[str], expected: Sequence[str]) -> list[float]:
        """See `Verifier`."""
        scores = np.asarray(self.raw_scores(expected, predictions), np.float64)
        return np.clip((scores - self._low) / (self._high - self._low), 0.0, 1.0).tolist()
