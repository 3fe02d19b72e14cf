"""T5X as the trainer: its model with passages and weighted tokens, and our tasks as its programs want them.

`gin/t5x/` binds what is here for `python -m t5x.train`, `t5x.eval` and `t5x.infer`. Importing this module registers the
tasks with the embedded vocabulary; `register`, which gin calls for T5X's macro VOCABULARY, registers them anew.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import seqio
import tensorflow as tf
from t5x import models
from t5x.examples.t5 import network

from cd_jax import tasks
from cd_jax.errors import RequestError
from cd_jax.feed import converter
from cd_jax.rundir import attempts
from cd_jax.rundir import updates as store
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.source import ExampleMixture, ExampleTask, is_ours

Batch = Mapping[str, jax.Array]


class PassagesTransformer(network.Transformer):
    """T5X's T5 1.1, which encodes every passage alone and lets the decoder attend to all of them (arXiv 2007.01282).

    Its parameters are T5X's, so that checkpoints pass from one to the other.
    """

    def encode(self, encoder_input_tokens, encoder_segment_ids=None, enable_dropout=True):
        """From `[batch, passages, length]` tokens to `[batch, passages * length, embed]` states."""
        batch, passages, length = encoder_input_tokens.shape
        alone = encoder_input_tokens.reshape(batch * passages, length)
        return super().encode(alone, None, enable_dropout).reshape(batch, passages * length, -1)

    def decode(self, encoded, encoder_input_tokens, *args, **kwargs):
        """T5X's, which masks the padding of all passages; `encoder_input_tokens` is `[batch, passages, length]`."""
        joined = encoder_input_tokens.reshape(encoder_input_tokens.shape[0], -1)
        return super().decode(encoded, joined, *args, **kwargs)


class PassagesModel(models.EncoderDecoderModel):
    """T5X's model with a weight for every target token.

    The loss is `cross_entropy.token_weighted_cross_entropy` where gin binds T5X's `loss_normalizing_factor` to
    'NUM_REAL_TARGET_TOKENS' and its z-loss to 0, as `gin/t5x/model.gin` does. The weights travel as
    `decoder_token_weights`; `decoder_loss_weights` stays the mask of 0 and 1 that T5X's metrics and scores want.
    """

    def loss_fn(self, params: Any, batch: Batch, dropout_rng: jax.Array | None) -> tuple[jax.Array, Any]:
        """The loss, a scalar, and T5X's metrics of the batch, a `FeatureConverter`'s."""
        weights = {"decoder_loss_weights": batch["decoder_token_weights"]}
        return super().loss_fn(params, {**batch, **weights}, dropout_rng)

    def _compute_metrics(self, logits, targets, mask, loss, z_loss=None, segment_ids=None):
        mask = (targets != 0).astype(jnp.float32)
        # T5X counts examples and padding in rows of one passage.
        rows = {name: ids.reshape(ids.shape[0], -1) for name, ids in (segment_ids or {}).items()}
        return super()._compute_metrics(logits, targets, mask, loss, z_loss, rows)


class FeatureConverter(converter.PassagesFeatureConverter):
    """Ours, as T5X makes and calls its own.

    A task has `inputs` and `targets`, as T5X's tasks do, and may have `update` and `memory`; so may
    TASK_FEATURE_LENGTHS. Beside the features of `PassagesFeatureConverter` there is `decoder_token_weights`, float32
    `[targets]`, which holds the weights; `decoder_loss_weights` is 1 on tokens and 0 on padding.
    """

    MODEL_FEATURES: ClassVar = {
        **converter.PassagesFeatureConverter.MODEL_FEATURES,
        "decoder_token_weights": converter.FeatureSpec(dtype=tf.float32),
    }

    def __init__(
        self,
        vocabulary: seqio.Vocabulary,
        num_passages: int = 0,
        answer_weight: float = 1.0,
        pack: bool = False,
        use_custom_packing_ops: bool = False,
    ):
        """See `PassagesFeatureConverter`; T5X gives the last two.

        Raises:
          RequestError: `pack` is set.
        """
        if pack or use_custom_packing_ops:
            raise RequestError("passages are encoded alone, not packed; bind utils.DatasetConfig.pack = False")
        super().__init__(vocabulary, num_passages, answer_weight)
        self._num_passages = num_passages

    def __call__(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        """Converts a dataset; what the task lacks is empty.

        Raises:
          RequestError: passages are asked for, but the task has no feature `memory`.
        """
        if self._num_passages and "memory" not in ds.element_spec:
            raise RequestError(
                f"FeatureConverter.num_passages={self._num_passages}, but the task has no feature `memory`; "
                "bind register.retrieved, or num_passages = 0"
            )
        nothing = {"update": tf.zeros([0], tf.int32), "memory": tf.zeros([0, 0], tf.int32)}
        lengths = {"update": task_feature_lengths["targets"], "memory": task_feature_lengths["inputs"]}
        return super().__call__(ds.map(lambda features: {**nothing, **features}), {**lengths, **task_feature_lengths})

    def _convert_example(self, features: Mapping[str, tf.Tensor], lengths: Mapping[str, int]) -> dict[str, tf.Tensor]:
        converted = super()._convert_example(features, lengths)
        mask = tf.cast(converted["decoder_target_tokens"] != 0, tf.float32)
        return converted | {"decoder_token_weights": converted["decoder_loss_weights"], "decoder_loss_weights": mask}

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Of all model features."""
        lengths = super().get_model_feature_lengths(task_feature_lengths)
        return {**lengths, "decoder_token_weights": task_feature_lengths["targets"]}


def register(
    vocabulary: str | None = None,
    babi_dir: str | None = None,
    com2sense_dir: str | None = None,
    tfds_data_dir: str | None = None,
    babi_layout: str | None = None,
    low_data_seed: int = 0,
    updates: str | None = None,
    retrieved: Sequence[str] = (),
) -> seqio.Vocabulary:
    """Registers all tasks and mixtures anew, with the metric that T5X's programs write, and returns their vocabulary.

    Args:
      vocabulary: a SentencePiece model, such as `cd_jax distill` leaves; None for the embedded one.
      babi_dir: see `tasks.register`.
      com2sense_dir: the same.
      tfds_data_dir: the same; so are `babi_layout` and `low_data_seed`.
      updates: an `updates.jsonl`: the target becomes `u answer: y`, u drawn afresh at every epoch among the example's.
        Examples that it does not explain, such as those of other splits, keep `answer: y`.
      retrieved: files of `cd_jax infer`, `inference/<task>-<step>.jsonl`: what memory held of each example becomes its
        passages, the same at every epoch.

    Raises:
      RequestError: a file is missing or malformed.
    """
    path = vocabulary or vocabularies.EMBEDDED
    tasks.register(babi_dir, com2sense_dir, path, tfds_data_dir, babi_layout, low_data_seed)
    loaded = vocabularies.load(path)
    joins: list[Callable] = []
    features = {}
    if updates is not None:
        said = {key: [update.update for update in group] for key, group in store.read_grouped(updates).items()}
        joins.append(_join("update", said, _draw, loaded))
        features["update"] = seqio.Feature(loaded, add_eos=False)
    if retrieved:
        found = dict(itertools.chain.from_iterable(_read_retrieved(path).items() for path in retrieved))
        shape = [max(map(len, found.values())), None]
        joins.append(_join("memory", found, lambda own, seed: own.to_tensor(shape=shape), loaded))
        features["memory"] = seqio.Feature(loaded, add_eos=False, rank=2)
    for task in [seqio.TaskRegistry.get(name) for name in seqio.TaskRegistry.names()]:
        if is_ours(task):
            _replace(task, joins, features)
    for mixture in [seqio.MixtureRegistry.get(name) for name in seqio.MixtureRegistry.names()]:
        # One with a task of the user's could not be: its tasks would differ in their features.
        if all(map(is_ours, mixture.tasks)):
            _make_anew(mixture)
    return loaded


def _make_anew(mixture: seqio.Mixture) -> None:
    """A mixture keeps the tasks that it was made of: it gets those of now. The user's stays the user's."""
    made = ExampleMixture if is_ours(mixture) else seqio.Mixture
    seqio.MixtureRegistry.remove(mixture.name)
    seqio.MixtureRegistry.add_provider(mixture.name, made(mixture.name, list(mixture.rate_per_task_name.items())))


def _replace(task: seqio.Task, joins: list[Callable], features: Mapping[str, seqio.Feature]) -> None:
    seqio.TaskRegistry.remove(task.name)
    replaced = ExampleTask(
        task.name,
        task.source,
        {**task.output_features, **features},
        preprocessors=[*task.preprocessors, *joins],
        postprocess_fn=task.postprocessor,
        metric_fns=task.metric_fns,
        shuffle_buffer_size=None,
    )
    seqio.TaskRegistry.add_provider(task.name, replaced)


def _join(feature: str, texts: Mapping[str, list[str]], pick: Callable, vocabulary: seqio.Vocabulary) -> Callable:
    """A preprocessor that adds to an example what `pick` takes of its texts, ragged int32 `[texts, (length)]`."""
    # Row 0 is of examples without texts.
    rows = tf.lookup.KeyValueTensorInitializer(["", *texts], tf.range(len(texts) + 1, dtype=tf.int64))
    table = tf.lookup.StaticHashTable(rows, default_value=0)
    tokens = vocabulary.encode_tf(tf.ragged.constant([[""], *texts.values()], tf.string))

    def join(features, seed):
        return features | {feature: pick(tokens[table.lookup(features["example_id"])], seed)}

    return seqio.map_over_dataset(join, num_seeds=1)


def _draw(own: tf.RaggedTensor, seed: tf.Tensor) -> tf.Tensor:
    # SeqIO repeats before it preprocesses, so that every epoch draws anew.
    return own[tf.random.stateless_uniform([], seed, maxval=own.nrows(tf.int32), dtype=tf.int32)]


def _read_retrieved(path: str) -> dict[str, list[str]]:
    found = attempts.read_retrieved(path, "bind register.retrieved to a file of `cd_jax infer`")
    if not any(found.values()):
        raise RequestError(f"{path}: nothing was retrieved; bind register.retrieved to inferences of cd_memory")
    return found


register()
