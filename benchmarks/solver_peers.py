"""The same network, batch and optimiser in cd_jax, T5X and Hugging Face, each as its own users would run it.

Every class takes a `Shape` and a `Batch` and has the methods that `solver.py` times; a method that is not there is not
timed. Each call returns what must be waited for.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """The reference configuration; the network is T5 1.1's."""

    batch: int = 16
    passages: int = 1
    encoder_length: int = 256
    decoder_length: int = 64
    vocab: int = 2048
    emb: int = 256
    heads: int = 4
    head_dim: int = 64
    mlp: int = 1024
    layers: int = 4
    dropout: float = 0.0


def tokens(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs `[batch, passages, length]` and targets `[batch, length]` without padding or end of sequence."""
    rng = np.random.RandomState(0)
    inputs = rng.randint(3, shape.vocab, (shape.batch, shape.passages, shape.encoder_length)).astype(np.int32)
    return inputs, rng.randint(3, shape.vocab, (shape.batch, shape.decoder_length)).astype(np.int32)


def features(shape: Shape) -> dict[str, np.ndarray]:
    """A batch under T5X's names."""
    inputs, targets = tokens(shape)
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


class CdJax:
    """Ours, through `Solver`."""

    name = "cd_jax"

    def __init__(self, shape: Shape, scan_layers: bool = False):
        import optax

        from cd_jax.nets.config import T5Config
        from cd_jax.solver.decoding import Decoding
        from cd_jax.solver.partitioning import Partitioner
        from cd_jax.solver.solver import Solver

        config = T5Config(
            vocab_size=shape.vocab, emb_dim=shape.emb, num_heads=shape.heads, head_dim=shape.head_dim,
            mlp_dim=shape.mlp, num_encoder_layers=shape.layers, num_decoder_layers=shape.layers,
            dropout_rate=shape.dropout, scan_layers=scan_layers,
        )  # fmt: skip
        self._shape, self._batch = shape, features(shape)
        self._solver = Solver(
            config,
            shape.vocab,
            optax.constant_schedule(1e-3),
            partitioner=Partitioner(devices=jax.devices()[:1]),
            z_loss=1e-4,
        )
        # Never the end of sequence: all tokens are decoded.
        self._state = self._never_ending(self._solver.init(0))
        self._sampling = Decoding(temperature=1.0)
        self._forward: Callable | None = None

    @staticmethod
    def _never_ending(state):
        kernel = state.params["decoder"]["logits_dense"]["kernel"]
        state.params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].set(0.0)
        return state

    def compile(self):
        """Lowers and compiles a training step anew."""
        jax.clear_caches()
        shape = self._shape
        lowered = self._solver.lower_train_step(shape.batch, shape.passages, shape.encoder_length, shape.decoder_length)
        lowered.compile()

    def train_step(self):
        self._state, metrics = self._solver.train_step(self._state, self._batch, 0)
        return metrics

    def forward(self):
        return self._solver.score(
            self._state.params, self._batch["encoder_input_tokens"], self._batch["decoder_target_tokens"]
        )

    def greedy(self):
        return self._decode()

    def sample(self):
        return self._decode(method=self._sampling)

    def _decode(self, **method):
        inputs = self._batch["encoder_input_tokens"]
        return self._solver.generate(self._state.params, inputs, self._shape.decoder_length, **method)


class T5X:
    """T5X's trainer and its `EncoderDecoderModel`, as `t5x.train` and `t5x.infer` call them."""

    name = "t5x"

    def __init__(self, shape: Shape):
        import seqio
        from t5x import adafactor, decoding, models, partitioning, trainer, utils
        from t5x.examples.t5 import network

        if shape.passages > 1:
            raise ValueError("T5X's network reads one passage")
        config = network.T5Config(
            vocab_size=shape.vocab, dtype="float32", emb_dim=shape.emb, num_heads=shape.heads,
            num_encoder_layers=shape.layers, num_decoder_layers=shape.layers, head_dim=shape.head_dim,
            mlp_dim=shape.mlp, mlp_activations=("gelu", "linear"), dropout_rate=shape.dropout,
        )  # fmt: skip
        optimizer = adafactor.Adafactor(
            decay_rate=0.8, step_offset=0, logical_factor_rules=adafactor.standard_logical_factor_rules()
        )
        vocabulary = seqio.PassThroughVocabulary(size=shape.vocab, eos_id=1)
        self._model = models.EncoderDecoderModel(
            module=network.Transformer(config=config), input_vocabulary=vocabulary, output_vocabulary=vocabulary,
            optimizer_def=optimizer, z_loss=1e-4, decode_fn=decoding.temperature_sample,
        )  # fmt: skip
        self._partitioner = partitioning.PjitPartitioner(num_partitions=1)
        self._batch = features(shape) | {"encoder_input_tokens": tokens(shape)[0][:, 0]}
        initializer = utils.TrainStateInitializer(
            optimizer_def=optimizer, init_fn=self._model.get_initial_variables,
            input_shapes={name: array.shape for name, array in self._batch.items()},
            input_types={name: array.dtype for name, array in self._batch.items()}, partitioner=self._partitioner,
        )  # fmt: skip
        self._axes = initializer.train_state_axes
        self._state = initializer.from_scratch(jax.random.PRNGKey(0))
        self._trainer = trainer.Trainer(
            model=self._model, train_state=self._state, partitioner=self._partitioner, eval_names=[],
            summary_dir=None, train_state_axes=self._axes, rng=jax.random.PRNGKey(1), num_microbatches=None,
            learning_rate_fn=utils.create_learning_rate_scheduler("constant", base_learning_rate=0.001, warmup_steps=1),
        )  # fmt: skip
        self._compiled: dict[str, Callable] = {}

    def compile(self):
        jax.clear_caches()
        self._trainer._compiled_train_step = None
        self._trainer.train_state = self._state  # The first one was donated to the first step.
        self._trainer.compile_train(self._batch)

    def train_step(self):
        if self._trainer._compiled_train_step is None:
            self.compile()
        self._state, metrics = self._trainer._compiled_train_step(self._state, self._batch)
        return metrics

    def _partitioned(self, name: str, function: Callable, *given: Any):
        specs = (self._axes.params, self._partitioner.data_partition_spec, *(None for _ in given))
        if name not in self._compiled:
            made = self._partitioner.partition(function, in_axis_resources=specs, out_axis_resources=None)
            self._compiled[name] = self._partitioner.compile(made, self._state.params, self._batch, *given)
        return self._compiled[name](self._state.params, self._batch, *given)

    def forward(self):
        return self._partitioned("forward", self._model.score_batch)

    def _decode(self, name: str, use_rng: bool, **options: Any):
        def decode(params, batch, rng):
            given = options | {"eos_id": -1}  # Never ends early.
            return self._model.predict_batch_with_aux(params, batch, rng=rng if use_rng else None, decoder_params=given)

        return self._partitioned(name, decode, jax.random.PRNGKey(0))

    def greedy(self):
        return self._decode("greedy", False, topk=1)

    def sample(self):
        return self._decode("sample", True, temperature=1.0, topk=0)


class HuggingFace:
    """`T5ForConditionalGeneration` with PyTorch's default threads, its own Adafactor and `generate`."""

    name = "hf"

    def __init__(self, shape: Shape):
        import torch
        from transformers import T5Config, T5ForConditionalGeneration
        from transformers.optimization import Adafactor

        if shape.passages > 1:
            raise ValueError("Hugging Face's T5 reads one passage")
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=shape.vocab, d_model=shape.emb, d_kv=shape.head_dim, d_ff=shape.mlp, num_layers=shape.layers,
            num_decoder_layers=shape.layers, num_heads=shape.heads, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False, dropout_rate=shape.dropout, decoder_start_token_id=0,
        )  # fmt: skip
        self._torch, self._length = torch, shape.decoder_length
        self._model = T5ForConditionalGeneration(config)
        self._optimizer = Adafactor(self._model.parameters(), lr=1e-3, relative_step=False, warmup_init=False)
        inputs, targets = tokens(shape)
        self._inputs, self._labels = torch.tensor(inputs[:, 0]).long(), torch.tensor(targets).long()

    def train_step(self):
        self._model.train()
        self._model(input_ids=self._inputs, labels=self._labels).loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def forward(self):
        self._model.eval()
        with self._torch.no_grad():
            self._model(input_ids=self._inputs, labels=self._labels)

    def _decode(self, **options: Any):
        self._model.eval()
        with self._torch.no_grad():
            length = {"max_new_tokens": self._length, "min_new_tokens": self._length}
            self._model.generate(self._inputs, num_beams=1, **length, **options)

    def greedy(self):
        self._decode(do_sample=False)

    def sample(self):
        self._decode(do_sample=True, top_k=0)


def installed(impl: str) -> bool:
    """Whether what an implementation needs is there."""
    needs = {"cd_jax": ("cd_jax",), "t5x": ("t5x",), "hf": ("torch", "transformers")}[impl]
    return all(importlib.util.find_spec(name) for name in needs)


PEERS = {peer.name: peer for peer in (CdJax, T5X, HuggingFace)}
