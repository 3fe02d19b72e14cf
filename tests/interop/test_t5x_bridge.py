"""T5X as the trainer: the bridge's model, converter and tasks, and T5X's own programs on them."""

import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

# The `t5x` of PyPI is an empty package: it is the module that counts.
if importlib.util.find_spec("t5x") is None or importlib.util.find_spec("t5x.models") is None:
    pytest.skip("T5X is not installed (from its repository: it is not on PyPI)", allow_module_level=True)

from t5x import adafactor, decoding
from t5x.examples.t5 import network

from cd_jax import tasks
from cd_jax.errors import RequestError
from cd_jax.interop import t5x as bridge
from cd_jax.losses import cross_entropy
from cd_jax.rundir import updates as store
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Update

CONFIG = network.T5Config(
    vocab_size=40,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activations=("gelu", "linear"),
)
ROWS, PASSAGES, LENGTH, TARGETS = 3, 2, 6, 5


@pytest.fixture(autouse=True)
def like_t5x():
    """T5X broadcasts ranks; and the other tests' tasks are the plain ones."""
    with jax.numpy_rank_promotion("allow"):
        yield
    tasks.register()


@pytest.fixture(scope="module")
def model():
    vocabulary = vocabularies.load()
    return bridge.PassagesModel(
        module=bridge.PassagesTransformer(CONFIG),
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=adafactor.Adafactor(),
        decode_fn=decoding.temperature_sample,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
    )


@pytest.fixture(scope="module")
def batch():
    """Rows, passages and targets of unequal lengths."""
    rng = np.random.default_rng(0)
    encoder = rng.integers(2, CONFIG.vocab_size, (ROWS, PASSAGES, LENGTH))
    encoder[0, 1, 3:] = 0
    encoder[2, 0, 5:] = 0
    targets = rng.integers(2, CONFIG.vocab_size, (ROWS, TARGETS))
    targets[0, 3:] = 0
    weights = np.where(targets != 0, rng.choice([0.0, 1.0, 2.0, 5.0], targets.shape), 0.0)
    return {
        "encoder_input_tokens": encoder.astype(np.int32),
        "decoder_target_tokens": targets.astype(np.int32),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1].astype(np.int32),
        "decoder_loss_weights": (targets != 0).astype(np.float32),
        "decoder_token_weights": weights.astype(np.float32),
    }


@pytest.fixture(scope="module")
def params(model, batch):
    shapes = {name: value.shape for name, value in batch.items()}
    with jax.numpy_rank_promotion("allow"):
        return model.get_initial_variables(jax.random.PRNGKey(1), shapes)["params"]


def by_hand(params, batch):
    """Logits from T5X's own network, which encodes one passage after the other."""
    stock, passages = network.Transformer(CONFIG), batch["encoder_input_tokens"]
    encoded = [
        stock.apply({"params": params}, passages[:, i], enable_dropout=False, method=stock.encode)
        for i in range(PASSAGES)
    ]
    return stock.apply(
        {"params": params},
        np.concatenate(encoded, 1),
        np.concatenate([passages[:, i] for i in range(PASSAGES)], 1),
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        enable_dropout=False,
        method=stock.decode,
    )


def test_the_decoder_attends_to_all_passages_encoded_alone(model, params, batch):
    logits = model._compute_logits(params, batch)
    np.testing.assert_allclose(logits, by_hand(params, batch), rtol=1e-4, atol=1e-4)
    other = batch["encoder_input_tokens"].copy()
    other[:, 1] = 7
    changed = by_hand(params, batch | {"encoder_input_tokens": other})
    assert np.abs(logits - changed).max() > 0.01, "the second passage is not read"


def test_greedy_decoding_takes_the_likeliest_token_at_every_step(model, params, batch):
    predicted = model.predict_batch(params, batch)
    said = np.zeros((ROWS, TARGETS), np.int32)
    ended = np.zeros(ROWS, bool)
    for t in range(TARGETS):
        # The mask of T5X's decoder follows the targets: all of them count here, as they do in decoding.
        step = {
            "decoder_input_tokens": np.pad(said, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": np.ones_like(said),
        }
        likeliest = np.asarray(by_hand(params, batch | step))[:, t].argmax(-1)
        said[:, t] = np.where(ended, 0, likeliest)
        ended |= said[:, t] == 1
    np.testing.assert_array_equal(predicted, said)


def test_the_loss_is_ours_and_the_metrics_have_a_mask(model, params, batch):
    loss, metrics = model.loss_fn(params, batch, None)
    logits = np.asarray(by_hand(params, batch))
    targets, weights = batch["decoder_target_tokens"], batch["decoder_token_weights"]
    np.testing.assert_allclose(loss, cross_entropy.token_weighted_cross_entropy(logits, targets, weights), rtol=1e-5)

    total = weight = hits = tokens = 0.0
    for row, t in np.ndindex(targets.shape):
        scores = logits[row, t].astype(np.float64)
        total -= weights[row, t] * (scores[targets[row, t]] - np.log(np.exp(scores).sum()))
        weight += weights[row, t]
        hits += targets[row, t] != 0 and scores.argmax() == targets[row, t]
        tokens += targets[row, t] != 0
    np.testing.assert_allclose(loss, total / weight, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"].compute(), hits / tokens, rtol=1e-6)
    np.testing.assert_allclose(metrics["non_padding_fraction/loss_weights"].compute(), tokens / targets.size)
    read = (batch["encoder_input_tokens"] != 0).mean()
    np.testing.assert_allclose(metrics["non_padding_fraction/encoder_input_tokens"].compute(), read, rtol=1e-6)


def test_scores_do_not_weigh(model, params, batch):
    scores = model.score_batch(params, batch)
    log_p = jax.nn.log_softmax(np.asarray(by_hand(params, batch)))
    chosen = np.take_along_axis(np.asarray(log_p), batch["decoder_target_tokens"][..., None], -1)[..., 0]
    np.testing.assert_allclose(scores, (chosen * batch["decoder_loss_weights"]).sum(-1), rtol=1e-4)


# The converter


class Ordinals:
    """A vocabulary that knows nothing but ordinals."""

    encode = {"1:": [11], "2:": [12]}.__getitem__


def converted(converter, example, lengths):
    tensors = {name: tf.constant(value, tf.int32) for name, value in example.items()}
    return next(iter(converter(tf.data.Dataset.from_tensors(tensors), lengths).as_numpy_iterator()))


def test_converter_keeps_weights_and_mask_apart():
    example = {"inputs": [7, 8, 1], "targets": [3, 9, 1], "update": [5, 6], "memory": [[4, 0], [2, 3]]}
    features = converted(bridge.FeatureConverter(Ordinals, 2, 3.0), example, {"inputs": 5, "targets": 6})
    assert {name: value.tolist() for name, value in features.items()} == {
        "encoder_input_tokens": [[11, 4, 7, 8, 1], [12, 2, 3, 8, 1]],
        "decoder_target_tokens": [5, 6, 3, 9, 1, 0],
        "decoder_input_tokens": [0, 5, 6, 3, 9, 1],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
        "decoder_token_weights": [1, 1, 3, 3, 3, 0],
    }
    assert set(features) == set(bridge.FeatureConverter.MODEL_FEATURES)


def test_converter_takes_a_task_of_inputs_and_targets_as_t5x_calls_it():
    converter = bridge.FeatureConverter(vocabulary=Ordinals, pack=False, use_custom_packing_ops=False)
    features = converted(converter, {"inputs": [7, 1], "targets": [3, 1]}, {"inputs": 3, "targets": 3})
    assert features["encoder_input_tokens"].tolist() == [[7, 1, 0]]
    assert features["decoder_target_tokens"].tolist() == [3, 1, 0]
    assert features["decoder_token_weights"].tolist() == [1, 1, 0]


def test_converter_refuses_packing_and_passages_that_are_not_there():
    with pytest.raises(RequestError, match=r"pack = False"):
        bridge.FeatureConverter(Ordinals, pack=True)
    with pytest.raises(RequestError, match=r"no feature `memory`"):
        converted(bridge.FeatureConverter(Ordinals, 2), {"inputs": [1], "targets": [1]}, {"inputs": 3, "targets": 3})


# The tasks

TASK = "babi_qa1_short"
LENGTHS = {"inputs": 96, "targets": 32}


def write_updates(path, examples, count):
    """`office 0`, `office 1` … where the answer is office."""
    store.append(
        path,
        [
            Update(example.example_id, TASK, f"{example.answer} {sample}", "test", "", sample, seed=0)
            for example in examples
            for sample in range(count)
        ],
    )


def test_every_epoch_draws_an_update_of_the_example_afresh(tmp_path):
    task, epochs = "babi_qa1_low_data", 240
    *explained, silent = tasks.Catalogue().examples(task, "train")
    write_updates(tmp_path / "updates.jsonl", explained, 3)
    vocabulary = bridge.register(updates=str(tmp_path / "updates.jsonl"))
    dataset = seqio.TaskRegistry.get(task).get_dataset(LENGTHS, "train", shuffle=False, seed=1, num_epochs=epochs)
    drawn = {example.example_id: [] for example in (*explained, silent)}
    for row in dataset.as_numpy_iterator():
        drawn[row["example_id"].decode()].append(vocabulary.decode(row["update"].tolist()))
    assert drawn[silent.example_id] == [""] * epochs
    for example in explained:
        said = drawn[example.example_id]
        counts = [said.count(f"{example.answer} {sample}") for sample in range(3)]
        assert sum(counts) == epochs
        # 80 of each, with a standard deviation of 7.3.
        assert min(counts) > 80 - 5 * 7.3


def test_the_mixture_has_the_updates_too_and_the_held_out_split_has_none(tmp_path):
    examples = tasks.Catalogue().examples(TASK, "train")
    write_updates(tmp_path / "updates.jsonl", examples, 1)
    vocabulary = bridge.register(updates=str(tmp_path / "updates.jsonl"))
    converter = bridge.FeatureConverter(vocabulary, answer_weight=2.0)
    rows = seqio.get_dataset("babi_short", LENGTHS, converter, "train", seed=0, num_epochs=1).take(200)
    texts = [vocabulary.decode(row["decoder_target_tokens"].tolist()) for row in rows.as_numpy_iterator()]
    explained = [text for text in texts if not text.startswith("answer:")]
    assert 10 < len(explained) < 190, "one task of five is explained"
    assert all(" 0 answer: " in text for text in explained)
    for row in seqio.get_dataset(TASK, LENGTHS, converter, "validation").take(20).as_numpy_iterator():
        assert vocabulary.decode(row["decoder_target_tokens"].tolist()).startswith("answer:")


def test_what_was_retrieved_becomes_passages(tmp_path):
    first, second, third = tasks.Catalogue().examples(TASK, "test")[:3]
    rows = [
        {"example_id": first.example_id, "retrieved": [{"update": "John went"}, {"update": "the office"}]},
        {"example_id": second.example_id, "retrieved": [{"update": "Mary"}]},
    ]
    (tmp_path / "retrieved.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vocabulary = bridge.register(retrieved=[str(tmp_path / "retrieved.jsonl")])
    converter = bridge.FeatureConverter(vocabulary, num_passages=2)
    dataset = seqio.get_dataset(TASK, LENGTHS, converter, "test")
    read = [
        [vocabulary.decode(passage.tolist()) for passage in row["encoder_input_tokens"]]
        for row in dataset.take(3).as_numpy_iterator()
    ]
    assert read == [
        [f"1: John went {first.prompt}", f"2: the office {first.prompt}"],
        [f"1: Mary {second.prompt}", f"2: {second.prompt}"],
        [f"1: {third.prompt}", f"2: {third.prompt}"],
    ]
    (tmp_path / "nothing.jsonl").write_text(json.dumps({"example_id": "1", "retrieved": []}) + "\n")
    with pytest.raises(RequestError, match=r"nothing\.jsonl: nothing was retrieved"):
        bridge.register(retrieved=[str(tmp_path / "nothing.jsonl")])
    with pytest.raises(
        RequestError, match=r"absent\.jsonl: no such file; bind register\.retrieved to a file of `cd_jax infer`"
    ):
        bridge.register(retrieved=[str(tmp_path / "absent.jsonl")])


def test_what_is_the_users_stays_however_often_ours_is_registered(tmp_path):
    write_updates(tmp_path / "updates.jsonl", tasks.Catalogue().examples(TASK, "train"), 1)
    byte = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
    nothing = seqio.FunctionDataSource(lambda split, shuffle_files=False, seed=None: None, splits=["train"])
    mine = seqio.TaskRegistry.add("mine", nothing, byte, preprocessors=[])
    both = seqio.MixtureRegistry.add("both", ["mine", TASK], default_rate=1.0)
    seqio.MixtureRegistry.add("two", [TASK, "babi_qa6_short"], default_rate=1.0)
    try:
        for _ in range(2):
            bridge.register(updates=str(tmp_path / "updates.jsonl"))
        assert (seqio.TaskRegistry.get("mine"), seqio.MixtureRegistry.get("both")) == (mine, both)
        assert all("update" in task.output_features for task in seqio.MixtureRegistry.get("two").tasks)
    finally:
        seqio.TaskRegistry.remove("mine")
        for name in ("both", "two"):
            seqio.MixtureRegistry.remove(name)


def test_a_prompt_that_does_not_fit_keeps_its_question():
    vocabulary = bridge.register()
    [row] = seqio.TaskRegistry.get(TASK).get_dataset({"inputs": 6, "targets": 32}, "test").take(1).as_numpy_iterator()
    prompt = row["inputs_pretokenized"].decode()
    assert len(row["inputs"]) == 6 and row["inputs"][-1] == vocabulary.eos_id
    assert prompt.endswith(vocabulary.decode(row["inputs"].tolist())) and "?" in prompt[-3:]


def test_tasks_bring_the_metric_that_t5x_writes():
    bridge.register()
    task = seqio.TaskRegistry.get(TASK)
    said = [task.postprocess_fn(text) for text in ("because … answer: Office", "answer: hall", "no")]
    targets = [
        task.postprocess_fn(f"answer: {place}", example={}, is_target=True) for place in ("office", "garden", "garden")
    ]
    [metric] = task.metric_fns
    assert metric(targets, said) == {"accuracy": pytest.approx(1 / 3)}


# T5X's own programs

TINY = {
    "BATCH_SIZE": 8,
    "EVAL_PERIOD": 5,
    "EVAL_STEPS": 1,
    "INPUT_LENGTH": 48,
    "TARGET_LENGTH": 24,
    "WARMUP_STEPS": 2,
    "train.stats_period": 1,
    "EVALUATOR_NUM_EXAMPLES": 8,
}


def program(name, environment, **bindings):
    """`python -m t5x.NAME` on our gin file: what it wrote to stderr."""
    flags = [f"--gin.{key}={value!r}" for key, value in bindings.items()]
    given = [sys.executable, "-m", f"t5x.{name}", "--gin_search_paths=gin", f"--gin_file=t5x/{name}.gin", *flags]
    done = subprocess.run(given, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
def test_t5x_trains_resumes_evaluates_and_infers(tmp_path, user_environment):
    write_updates(tmp_path / "updates.jsonl", tasks.Catalogue().examples(TASK, "train"), 2)
    data = {"MIXTURE_OR_TASK_NAME": TASK, "UPDATES_FILE": str(tmp_path / "updates.jsonl")}
    model_dir = tmp_path / "model"
    trained = program("train", user_environment, **data, **TINY, MODEL_DIR=str(model_dir), TRAIN_STEPS=10)
    assert "Starting main loop over steps 0-10" in trained
    resumed = program("train", user_environment, **data, **TINY, MODEL_DIR=str(model_dir), TRAIN_STEPS=15)
    assert "Starting main loop over steps 10-15" in resumed
    lengths = {key: TINY[key] for key in ("INPUT_LENGTH", "TARGET_LENGTH")}
    asked = {**data, **lengths, "CHECKPOINT_PATH": str(model_dir / "checkpoint_15")}
    program("eval", user_environment, **asked, EVAL_OUTPUT_DIR=str(tmp_path / "eval"))
    [line] = (tmp_path / "eval" / "inference_eval" / f"{TASK}-metrics.jsonl").read_text().splitlines()
    measured = json.loads(line)
    program("infer", user_environment, **asked, INFER_OUTPUT_DIR=str(tmp_path / "infer"))
    [file] = (tmp_path / "infer").glob("*.jsonl-00000-of-00001")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == len(tasks.Catalogue().examples(TASK, "test"))
    assert measured["step"] == 15
    expected = [row["inputs"]["targets_pretokenized"].removeprefix("answer: ") for row in rows]
    right = [row["prediction"].endswith(f"answer: {answer}") for row, answer in zip(rows, expected, strict=True)]
    assert measured["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)
