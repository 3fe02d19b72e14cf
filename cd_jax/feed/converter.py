"""From an example, its update and what memory holds of it, to what the solver sees."""

from collections.abc import Mapping
from typing import ClassVar

import seqio
import tensorflow as tf

FeatureSpec = seqio.FeatureConverter.FeatureSpec


class PassagesFeatureConverter(seqio.FeatureConverter):
    """A `seqio.FeatureConverter` for an encoder-decoder that reads passages and weighs its target tokens.

    Example, with `num_passages=2`, `answer_weight=2.0` and task feature lengths inputs 5, targets 5:

      {"inputs": [7, 8, 1], "targets": [3, 9, 1], "update": [5, 6], "memory": [[4, 0], [2, 3]]}

    becomes, where 11 and 12 are the ordinals of the passages:

      encoder_input_tokens: [[11, 4, 7, 8, 1], [12, 2, 3, 8, 1]]    (a prompt that does not fit loses its start)
      decoder_target_tokens: [5, 6, 3, 9, 1]
      decoder_input_tokens: [0, 5, 6, 3, 9]
      decoder_loss_weights: [1., 1., 2., 2., 2.]

    Where a row brings weights of its own, `update_weights` `[length]` and `target_weight`, a number, those count.

    With `num_passages=0` there is one passage, the prompt. There is no packing: passages are encoded alone.
    """

    TASK_FEATURES: ClassVar = {
        "inputs": FeatureSpec(dtype=tf.int32),
        "targets": FeatureSpec(dtype=tf.int32),
        "update": FeatureSpec(dtype=tf.int32),
        "memory": FeatureSpec(dtype=tf.int32, rank=2, sequence_dim=1),
    }
    MODEL_FEATURES: ClassVar = {
        "encoder_input_tokens": FeatureSpec(dtype=tf.int32, rank=2, sequence_dim=1),
        "decoder_target_tokens": FeatureSpec(dtype=tf.int32),
        "decoder_input_tokens": FeatureSpec(dtype=tf.int32),
        "decoder_loss_weights": FeatureSpec(dtype=tf.float32),
    }
    PACKING_FEATURE_DTYPES: ClassVar[dict[str, tf.DType]] = {}

    def __init__(self, vocabulary: seqio.Vocabulary, num_passages: int = 0, answer_weight: float = 1.0):
        """Makes the converter.

        Args:
          vocabulary: encodes the ordinals `1:`, `2:` … that stand before a retrieved update.
          num_passages: retrieved updates of an example; 0 for a solver without memory.
          answer_weight: of the tokens of the answer and its end of sequence.
        """
        super().__init__(pack=False, apply_length_check=False)
        self._ordinals = [vocabulary.encode(f"{i + 1}:") for i in range(num_passages)]
        self._answer_weight = answer_weight

    def _passages(self, features: Mapping[str, tf.Tensor], length: int) -> tf.Tensor:
        prompt = features["inputs"]
        if not self._ordinals:
            return _fit(prompt[-length:], length)[None]
        passages = []
        for i, ordinal in enumerate(self._ordinals):
            update = _strip(features["memory"][i])[: length // 2]
            head = tf.concat([tf.constant(ordinal, tf.int32), update], 0)
            # What is most recent, and the question, stand at the end of the prompt.
            room = tf.maximum(length - tf.shape(head)[0], 1)
            passages.append(_fit(tf.concat([head, prompt[-room:]], 0), length))
        return tf.stack(passages)

    def _convert_example(self, features: Mapping[str, tf.Tensor], lengths: Mapping[str, int]) -> dict[str, tf.Tensor]:
        length = lengths["targets"]
        answer = features["targets"][:length]
        # The answer is never cut: an update that does not fit loses its end.
        update = features["update"][: length - tf.shape(answer)[0]]
        targets = _fit(tf.concat([update, answer], 0), length)
        of_update = features.get("update_weights", tf.ones_like(features["update"], tf.float32))
        of_answer = features.get("target_weight", self._answer_weight) * tf.ones_like(answer, tf.float32)
        weights = tf.concat([of_update[: tf.shape(update)[0]], of_answer], 0)
        return {
            "encoder_input_tokens": self._passages(features, lengths["inputs"]),
            "decoder_target_tokens": targets,
            "decoder_input_tokens": seqio.utils.make_autoregressive_inputs(targets),
            "decoder_loss_weights": _fit(weights, length),
        }

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        return ds.map(
            lambda features: self._convert_example(features, task_feature_lengths),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Lengths of the model features: inputs' for each passage, targets' for all of the decoder's."""
        targets = task_feature_lengths["targets"]
        return {
            "encoder_input_tokens": task_feature_lengths["inputs"],
            "decoder_target_tokens": targets,
            "decoder_input_tokens": targets,
            "decoder_loss_weights": targets,
        }


def _strip(tokens: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(tokens, tokens != 0)


def _fit(tokens: tf.Tensor, length: int) -> tf.Tensor:
    """Pads `tokens`, at most `length` of them, to `length`."""
    fitted = tf.pad(tokens, [[0, length - tf.shape(tokens)[0]]])
    fitted.set_shape([length])
    return fitted
