"""`cd_jax import` and `cd_jax export` as a user starts them; training that begins with what was imported."""

import dataclasses
import json
import pathlib
import shlex
import shutil

import numpy as np
import optax
import pytest
import runs
import safetensors
import sentencepiece
import test_huggingface
from safetensors.numpy import load_file

from cd_jax import interop
from cd_jax.rundir.checkpoints import Checkpoints, Progress
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver, TrainState
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.weights import huggingface

PROMPT = "--prompt=John went to the office. Where is John?"


def command(verb: str, model_dir: pathlib.Path, *flags: str, **bindings) -> int:
    return runs.here(runs.arguments(verb, model_dir, *flags, **bindings))


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return load_file(folder / huggingface.WEIGHTS)


def assert_equal_tensors(one: pathlib.Path, other: pathlib.Path) -> None:
    found, expected = tensors(one), tensors(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_an_imported_model_answers_and_goes_home_unchanged(imported, source, tmp_path, capsys):
    names = {path.name for path in imported.iterdir()}
    assert names == {"checkpoints", "config.gin", "vocabulary.model"}
    assert (imported / "vocabulary.model").read_bytes() == vocabularies.EMBEDDED.read_bytes()
    assert "T5Config.num_decoder_layers = 3" in (imported / "config.gin").read_text()
    assert command("infer", imported, PROMPT) == 0
    said = capsys.readouterr().out
    assert "generation:" in said
    assert command("eval", imported, "--gin.EVAL_PER_TASK=2", SOURCE=f"'{runs.SOURCE}'", SOURCE_PER_TASK=2) == 0
    entry = json.loads((imported / "results.json").read_text())["runs"][0]
    assert (entry["agent"], entry["steps"], entry["source"]["n"]) == ("baseline", 0, 2)
    # On another mesh than it was imported on.
    assert command("export", imported, "--format=hf", MESH_MODEL=2) == 0
    assert_equal_tensors(imported / "export" / "hf", source)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "spiece.model"):
        assert (imported / "export" / "hf" / name).read_bytes() == (source / name).read_bytes()
    length = json.loads((imported / "export" / "hf" / "generation_config.json").read_text())["max_new_tokens"]
    assert length == runs.LENGTHS["TARGET_LENGTH"]
    capsys.readouterr()
    assert command("import", tmp_path / "again", str(imported), INPUT_LENGTH=32, TARGET_LENGTH=24) == 0
    assert command("infer", tmp_path / "again", PROMPT) == 0
    assert said.splitlines()[-2] in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["t5x", "t5x_legacy"])
def test_there_and_back_through_t5x(kind, imported, source, tmp_path):
    assert command("export", imported, f"--format={kind}", f"--output={tmp_path / 't5x'}") == 0
    assert (tmp_path / "t5x" / "vocabulary.model").read_bytes() == vocabularies.EMBEDDED.read_bytes()
    model = tmp_path / "model"
    assert command("import", model, str(tmp_path / "t5x"), TARGET_LENGTH=24) == 0
    assert command("export", model, "--format=hf", f"--output={tmp_path / 'hf'}", T5Config__dropout_rate=0.0) == 0
    assert_equal_tensors(tmp_path / "hf", source)
    if kind == "t5x":
        # Which activation gates, a checkpoint of T5X's does not say: who knows it, binds it.
        silu = "('silu', 'linear')"
        arguments = (str(tmp_path / "t5x"), f"--gin.T5Config.mlp_activations={silu}")
        assert command("import", tmp_path / "silu", *arguments, TARGET_LENGTH=24) == 0
        assert f"T5Config.mlp_activations = {silu}" in (tmp_path / "silu" / "config.gin").read_text()
        ungated = (arguments[0], "--gin.T5Config.mlp_activations=('relu',)")
        assert command("import", tmp_path / "relu", *ungated, TARGET_LENGTH=24) == 2


def test_transformers_writes_what_cd_jax_infer_writes(imported):
    why = "Hugging Face's T5 is lacking: pip install cd_jax[interop]"
    transformers = pytest.importorskip("transformers", reason=why)
    pytest.importorskip("torch", reason=why)
    # transformers cuts no prompt.
    assert command("infer", imported, TASK=f"'{runs.SOURCE}'", infer__per_task=12, INPUT_LENGTH=128) == 0
    assert command("export", imported, "--format=hf") == 0
    lines = (imported / "inference" / f"{runs.SOURCE}-0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    tokenizer = transformers.AutoTokenizer.from_pretrained(imported / "export" / "hf")
    model = transformers.T5ForConditionalGeneration.from_pretrained(imported / "export" / "hf").eval()
    inputs = tokenizer([row["prompt"] for row in rows], padding=True, return_tensors="pt")
    # transformers 5.23 makes its cache as deep as the encoder, and fails where the decoder is deeper, as here.
    generated = model.generate(**inputs, use_cache=False).tolist()
    # Random weights write broken UTF-8, of which the tokenizer's decoder shows less.
    processor = sentencepiece.SentencePieceProcessor(model_file=str(imported / "vocabulary.model"))
    said = [processor.decode([token if token < len(tokenizer) else 2 for token in tokens]) for tokens in generated]
    assert len(set(said)) > 6
    assert said == [row["generation"] for row in rows]


def training(folder: pathlib.Path, **more) -> dict:
    """Bindings of two steps that begin with a model and, at a rate of 0, leave its parameters what they were."""
    given = {**runs.LENGTHS, "SOURCE": f"'{runs.SOURCE}'", "AGENT": "'cd_finetune'", "BATCH_SIZE": 8}
    given |= {"INITIAL_CHECKPOINT": f"'{folder}'", "LEARNING_RATE": 0.0, "END_RATE": 0.0, "WARMUP_STEPS": 0}
    given |= {"TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "train.log_period": 2, "train.eval_per_task": 4, **more}
    return {name.replace(".", "__"): value for name, value in given.items()}


@pytest.mark.slow
def test_training_begins_with_the_imported_parameters(imported, source, tmp_path, capfd):
    run, bindings = tmp_path / "run", training(imported)
    train = (f"--gin_file={imported / 'config.gin'}",)
    # Distilled without the imported vocabulary: nothing is written.
    other = tmp_path / "other"
    assert command("distill", other, SOURCE=f"'{runs.SOURCE}'") == 0
    told = said(capfd, status=command("train", run, *train, **bindings, train__distilled=f"'{other}'"))
    assert f"is not the vocabulary of {imported}" in told
    assert "--gin.distill.vocabulary=" in told
    assert not run.exists()
    vocabulary = f"'{imported / 'vocabulary.model'}'"
    assert command("distill", run, SOURCE=f"'{runs.SOURCE}'", distill__vocabulary=vocabulary) == 0
    # Without the imported config.gin the network is another.
    capfd.readouterr()
    told = said(capfd, status=command("train", run, **bindings))
    assert "T5Config.emb_dim=32 (here 64), T5Config.num_heads=8 (here 4), " in told
    assert f"; give --gin_file={imported / 'config.gin'}\n" in told
    assert command("train", run, *train, **bindings) == 0
    before, after = Checkpoints(imported, read_only=True), Checkpoints(run, read_only=True)
    abstract = test_huggingface.abstract_params(test_huggingface.OURS)
    test_huggingface.assert_equal_trees(after.restore_params(2, abstract), before.restore_params(0, abstract))
    assert after.progress(2).identity["initial_checkpoint"] == str(imported)
    # Done; and with other parameters to start from it would be another run.
    assert command("train", run, *train, **bindings) == 0
    assert "is done: 2 of 2 steps" in capfd.readouterr().out
    assert command("train", run, *train, **{**bindings, "INITIAL_CHECKPOINT": "None"}) == 2
    assert "initial_checkpoint=" in capfd.readouterr().err
    assert command("export", run, "--format=hf") == 0
    assert_equal_tensors(run / "export" / "hf", source)


@pytest.mark.parametrize("kind", ["hf", "t5x"])
def test_training_begins_with_a_folder_that_was_not_imported(kind, imported, source, tmp_path, capfd):
    folder = source
    if kind == "t5x":
        folder = tmp_path / "t5x"
        assert command("export", imported, "--format=t5x", f"--output={folder}") == 0
    run, other, bindings = tmp_path / "run", tmp_path / "other", training(folder)
    assert command("distill", other, SOURCE=f"'{runs.SOURCE}'") == 0
    capfd.readouterr()
    told = said(capfd, status=command("train", run, **bindings, train__distilled=f"'{other}'"))
    assert f"{other / 'vocabulary.model'}: is not the vocabulary of {folder}; " in told
    # What it says to give, is what it wants.
    distill = shlex.split(told.partition("another --model_dir with ")[2])
    assert command("distill", run, *distill, SOURCE=f"'{runs.SOURCE}'") == 0
    capfd.readouterr()
    told = said(capfd, status=command("train", run, **bindings))
    assert f"{folder}: holds a network with T5Config.vocab_size=2688" not in told
    assert f"{folder}: holds a network with T5Config.emb_dim=32 (here 64)" in told
    network = shlex.split(told.partition("; give ")[2])
    assert len(network) == told.count("(here ") == 5 and not (run / "checkpoints").exists()
    told = said(capfd, status=command("train", run, *network, **bindings, T5Config__mlp_activations="('relu',)"))
    assert """T5Config.mlp_activations=('gelu', 'linear') (here ('relu',)); give --gin.T5Config.mlp_""" in told
    network += shlex.split(told.partition("; give ")[2])
    network.insert(0, "--gin.T5Config.mlp_activations=('relu',)")
    if kind == "t5x":  # From here on all is the same.
        assert command("train", run, *network, **bindings, train__check_only=True) == 0
        return
    assert command("train", run, *network, **bindings) == 0
    assert command("export", run, "--format=hf") == 0
    assert_equal_tensors(run / "export" / "hf", source)
    assert (run / "vocabulary.model").read_bytes() == vocabularies.EMBEDDED.read_bytes()


def test_a_folder_with_more_pieces_than_rows_is_refused_by_training(source, tmp_path, capfd):
    copy = pathlib.Path(shutil.copytree(source, tmp_path / "copy"))
    assert command("distill", tmp_path / "run", SOURCE=f"'{runs.SOURCE}'", distill__vocabulary=f"'{copy}'") == 0
    test_huggingface.change_config(copy, vocab_size=2560)
    capfd.readouterr()
    told = said(capfd, status=command("train", tmp_path / "run", **training(copy)))
    assert f"{vocabularies.load().vocab_size} pieces, the embedding of {copy} 2560 rows; give --vocabulary=FILE" in told


# Beside those that are printed: of the smallest run.
SMALLEST = {
    "import": ["INPUT_LENGTH=32", "TARGET_LENGTH=24", "SelfLearningProcess.eval_batch_size=8"],
    "distill": [],
    "train": ["BATCH_SIZE=8", "TRAIN_STEPS=2", "EVAL_PERIOD=2", "train.log_period=2", "train.eval_per_task=4"],
    "eval": ["EVAL_PER_TASK=2", "SOURCE_PER_TASK=2"],
    "export": [],
    "demo": ["SOURCE='babi_qa1_low_data'", "TARGETS=['babi_qa13_short']", "AGENTS=['cd_finetune']", "PATIENCE=9"],
}
SMALLEST["demo"] += [*SMALLEST["train"], *SMALLEST["eval"]]
DIRECT = [
    *("vocab_size=2688", "emb_dim=32", "num_heads=8", "head_dim=4", "mlp_dim=48", "num_encoder_layers=1"),
    "num_decoder_layers=1",
]


def printed() -> list[list[str]]:
    """The commands of the README on fine-tuning, as the shell takes them apart."""
    text = (pathlib.Path(interop.__file__).parent / "README.md").read_text()
    text = text.partition("**Fine-tuning a pre-trained T5.**")[2].partition("What does not pass over")[0]
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("    cd_jax ")]


@pytest.mark.slow
def test_the_printed_commands_of_fine_tuning_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(test_huggingface.OURS, num_encoder_layers=1, num_decoder_layers=1)
    huggingface.write("flan", test_huggingface.random_params(config), config, vocabularies.EMBEDDED, 16)
    done = []
    for _, verb, *given in printed():
        # The task, the folder and its shape are ours; the original data are not there for everyone.
        given = [flag.replace("…/flan-t5-small", "flan").replace("babi_short", runs.SOURCE) for flag in given]
        given = [flag for flag in given if "_dir=…" not in flag and "T5Config" not in flag]
        given += [f"--gin.{binding}" for binding in SMALLEST[verb]]
        if "runs/direct" in " ".join(given) and verb == "train":
            given += [f"--gin.T5Config.{binding}" for binding in DIRECT]
            given += ["--gin.WARMUP_STEPS=0", "--gin.train.check_only=True"]
        assert runs.here([verb, *given]) == 0, (verb, given)
        done.append(verb)
    assert done == ["import", "distill", "train", "eval", "export", "demo", "distill", "train"]
    for run in ("runs/mine", "runs/paper/cd_finetune-seed0"):
        checkpoints = Checkpoints(pathlib.Path(run), read_only=True)
        assert checkpoints.progress(2).identity["network"]["emb_dim"] == 32
    names = {path.name for path in pathlib.Path("runs/mine/export/hf").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}


def said(capfd, *, status: int, expected: int = 2) -> str:
    error = capfd.readouterr().err
    assert status == expected, error
    assert error.startswith("cd_jax: ")
    assert error.count("\n") == 1
    return error


def test_bad_requests_are_one_line_and_write_nothing(source, imported, tmp_path, capfd):
    target = tmp_path / "model"

    def refused(*flags: str, verb: str = "import", model_dir: pathlib.Path = target, **bindings) -> str:
        return said(capfd, status=command(verb, model_dir, *flags, **bindings))

    assert "holds no model: neither config.json" in refused(str(tmp_path))
    assert "holds no model" in refused(str(tmp_path / "nowhere"))
    assert "is not empty; choose another --model_dir" in refused(str(source), model_dir=imported)
    assert "T5Config.emb_dim=64: " in refused(str(source), T5Config__emb_dim=64)
    assert "does not make 8 devices" in refused(str(source), MESH_MODEL=3)
    assert "no such file" in refused(str(source), f"--vocabulary={tmp_path / 'none.model'}")
    copy = pathlib.Path(shutil.copytree(source, tmp_path / "copy"))
    for name in ("spiece.model", "tokenizer.json"):
        (copy / name).unlink()
    assert "give --vocabulary=FILE" in refused(str(copy))
    test_huggingface.change_config(copy, vocab_size=100)
    told = refused(str(copy), f"--vocabulary={vocabularies.EMBEDDED}")
    assert f"{vocabularies.load().vocab_size} pieces, the embedding" in told
    (copy / "config.json").unlink()
    assert "holds no model" in refused(str(copy))
    assert not target.exists()
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    exporting = {"verb": "export", "model_dir": imported}
    assert "is not empty; choose another --output" in refused("--format=hf", f"--output={full}", **exporting)
    assert "invalid choice" in refused("--format=onnx", **exporting)
    assert "no such file" in refused("--format=hf", verb="export")


def test_a_failed_export_leaves_the_last_one(imported, capfd, monkeypatch):
    folder = imported / "export" / "hf"
    assert command("export", imported, "--format=hf") == 0
    before = runs.snapshot(folder)
    # As on a full disk, when the half of it is written.
    monkeypatch.setattr(huggingface, "save_file", _fails)
    status = command("export", imported, "--format=hf")
    assert "model.safetensors: cannot be written" in said(capfd, status=status, expected=1)
    assert runs.snapshot(folder) == before
    assert not list(folder.parent.glob("*.tmp"))


def _fails(*_, **__):
    raise safetensors.SafetensorError("No space left on device")


# Our own checkpoints, on another mesh


def solver_on(data: int, model: int) -> Solver:
    return Solver(test_huggingface.OURS, 0, optax.constant_schedule(0.01), partitioner=Partitioner(data, model))


def batches() -> list[dict]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4):
        targets = rng.integers(2, 2688, (8, 6)).astype(np.int32)
        found.append(
            {
                "encoder_input_tokens": rng.integers(2, 2688, (8, 1, 10)).astype(np.int32),
                "decoder_target_tokens": targets,
                "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
                "decoder_loss_weights": np.ones((8, 6), np.float32),
            }
        )
    return found


@pytest.mark.slow
def test_a_checkpoint_of_one_mesh_goes_on_on_another(tmp_path):
    one, other = solver_on(1, 8), solver_on(4, 2)
    state: TrainState = one.init(0)
    for batch in batches()[:2]:
        state, _ = one.train_step(state, batch, 0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state, {}, Progress({"agent": "baseline"}, [[2, 0.5]]))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    restored, _, _ = checkpoints.restore(2, other.abstract_state())
    params = checkpoints.restore_params(2, other.abstract_state().params)
    checkpoints.close()
    test_huggingface.assert_equal_trees(restored.params, state.params)
    test_huggingface.assert_equal_trees(params, state.params)
    for tree in (restored.params, params):
        kernel = tree["encoder"]["layers"]["mlp"]["wo"]["kernel"]
        assert kernel.sharding.mesh.shape == {"data": 4, "model": 2}
        assert kernel.addressable_shards[0].data.shape == (2, 24, 32)
    losses: dict[str, list[float]] = {"one": [], "other": []}
    for batch in batches()[2:]:
        state, metrics = one.train_step(state, batch, 0)
        restored, others = other.train_step(restored, batch, 0)
        losses["one"].append(float(metrics["loss"]))
        losses["other"].append(float(others["loss"]))
    assert losses["one"][0] != losses["one"][1]
    # Sums in another order.
    np.testing.assert_allclose(losses["other"], losses["one"], rtol=1e-5)


def test_our_own_checkpoint_that_is_damaged_is_refused(imported, tmp_path, capfd):
    folder = pathlib.Path(shutil.copytree(imported, tmp_path / "damaged"))
    files = sorted((folder / "checkpoints" / "0" / "state").rglob("d/*"), key=lambda file: -file.stat().st_size)
    files[0].write_bytes(files[0].read_bytes()[:100])
    status = command("infer", folder, PROMPT)
    assert f"{folder}/checkpoints/0: cannot be read (the tensor " in said(capfd, status=status)
