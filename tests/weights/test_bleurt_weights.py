"""Tests of BLEURT's folders: official ones, ports, and what is tuned here."""

import dataclasses
import functools
import json
import pathlib
import shutil

import bundles
import jax
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

from cd_jax.errors import RequestError
from cd_jax.nets.bert import BertConfig, BertRegressor
from cd_jax.verifier import batches
from cd_jax.weights import bert, bleurt

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdeiknt,", *(f"##{letter}" for letter in "abcdehiknt")]
TINY = BertConfig(
    vocab_size=32, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=40,
)  # fmt: skip
REMBERT = dataclasses.replace(TINY, embedding_size=6)
DENSE = "bert/encoder/layer_1/intermediate/dense/kernel"


def abstract(config: BertConfig):
    return batches.abstract_params(BertRegressor(config), None)


@functools.cache
def variables(config: BertConfig = TINY) -> dict[str, np.ndarray]:
    """Under the original's names."""
    rng = np.random.default_rng(0)
    named = bert.names.shapes(abstract(config))
    return {bert.original_name(name): rng.normal(size=shape).astype(np.float32) for name, shape in named.items()} | {
        "global_step": np.int64(3)
    }


def by_pytorch(config: BertConfig = TINY) -> dict[str, np.ndarray]:
    found = {}
    for name in bert.names.shapes(abstract(config)):
        value = variables(config)[bert.original_name(name)]
        found[bert.pytorch_name(name)] = np.ascontiguousarray(value.T if name.endswith("/kernel") else value)
    return found


def write(folder: pathlib.Path, safetensors: bool = False, config: BertConfig = TINY) -> pathlib.Path:
    """An official folder without its graph, which nobody here reads."""
    folder.mkdir(parents=True)
    fields = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    (folder / "bert_config.json").write_text(json.dumps(fields | {"hidden_act": "gelu"}))
    described = {
        "name": "tiny", "vocab_file": "vocab.txt", "bert_config_file": "bert_config.json", "do_lower_case": True,
        "max_seq_length": 24,
    }  # fmt: skip
    (folder / "bleurt_config.json").write_text(json.dumps(described))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    if safetensors:
        save_file(by_pytorch(config), folder / "model.safetensors")
    else:
        bundles.save(folder / "variables" / "variables", variables(config))
    return folder


def read(folder: pathlib.Path):
    checkpoint = bleurt.describe(folder)
    return bleurt.read(checkpoint, abstract(checkpoint.config))


def refused(folder: pathlib.Path) -> str:
    with pytest.raises(RequestError) as error:
        read(folder)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def assert_same(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.parametrize("config", [TINY, REMBERT])
def test_both_formats_are_the_same(tmp_path, config):
    one = read(write(tmp_path / "official", config=config))
    assert_same(one, read(write(tmp_path / "tuned", safetensors=True, config=config)))
    assert np.array_equal(one["bert"]["layers_1"]["mlp_in"]["kernel"], variables(config)[DENSE])


def test_what_is_written_is_read(tmp_path):
    folder = write(tmp_path / "official")
    checkpoint, params = bleurt.describe(folder), read(folder)
    bleurt.write(tmp_path / "tuned", checkpoint, params)
    assert_same(params, read(tmp_path / "tuned"))
    again = bleurt.describe(tmp_path / "tuned")
    assert (again.config, again.max_length, again.lower) == (TINY, 24, True)
    assert again.tokenizer.ids("Cab, än") == checkpoint.tokenizer.ids("Cab, än")


def port(folder: pathlib.Path, prefix: str, config: BertConfig = TINY) -> pathlib.Path:
    """A folder as PyTorch's programs save it."""
    write(folder, safetensors=True, config=config)
    (folder / "bleurt_config.json").unlink()
    (folder / "bert_config.json").rename(folder / "config.json")
    renamed = {
        name.replace("bert.", prefix, 1).replace("embedding_hidden_mapping_in", MAPPINGS[prefix]): value
        for name, value in by_pytorch(config).items()
    }
    renamed[f"{prefix}embeddings.position_ids"] = np.arange(40)[None]
    save_file(renamed, folder / "model.safetensors")
    return folder


MAPPINGS = {
    "bleurt.": "embedding_projection",
    "rembert.": "embedding_hidden_mapping_in",
    "bert.": "embedding_hidden_mapping_in",
    "": "embedding_hidden_mapping_in",
}


@pytest.mark.parametrize("prefix", MAPPINGS)
@pytest.mark.parametrize("config", [TINY, REMBERT])
def test_ports(tmp_path, prefix, config):
    folder = port(tmp_path / "port", prefix, config)
    assert_same(read(folder), read(write(tmp_path / "official", config=config)))
    assert bleurt.describe(folder).max_length == 40
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 16, "do_lower_case": false}')
    described = bleurt.describe(folder)
    assert (described.max_length, described.lower, described.config.hidden_act) == (16, False, "gelu_tanh")


def test_the_names_of_the_ports():
    assert bert.pytorch_name("bert/embeddings/word_embeddings/embedding") == "bert.embeddings.word_embeddings.weight"
    assert bert.pytorch_name("bert/layers_11/query/kernel") == "bert.encoder.layer.11.attention.self.query.weight"
    assert bert.pytorch_name("bert/layers_0/mlp_norm/scale") == "bert.encoder.layer.0.output.LayerNorm.weight"
    assert bert.pytorch_name("bert/pooler/bias") == "bert.pooler.dense.bias"
    assert bert.pytorch_name("head/kernel") == "classifier.weight"


# SentencePiece


@functools.cache
def sentencepiece_model() -> bytes:
    import io

    made = io.BytesIO()
    texts = ["a bird chirps by the window", "this is a random sentence", "Wo ist das Kind?", "ένα πουλί"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=made, vocab_size=60, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
        pad_piece="[PAD]", control_symbols=["[CLS]", "[SEP]"], hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return made.getvalue()


def rembert(folder: pathlib.Path) -> pathlib.Path:
    config = dataclasses.replace(REMBERT, vocab_size=80)
    write(folder, config=config)
    (folder / "vocab.txt").unlink()
    (folder / "sent_piece.model").write_bytes(sentencepiece_model())
    (folder / "sent_piece.vocab").write_text("")
    bundles.change_json(folder / "bleurt_config.json", vocab_file=None, do_lower_case=None, sp_model="sent_piece")
    return folder


def test_sentencepiece(tmp_path):
    tokenizer = bleurt.describe(rembert(tmp_path / "rembert")).tokenizer
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    for text in ("a bird", "", " Kind?  ", "☃ [SEP] <unk>", "ένα", "\ud800x", "\x00"):
        plain = text.replace("\ud800", "?")
        expected = [processor.piece_to_id(piece) for piece in processor.encode(plain, out_type=str)]
        assert tokenizer.ids(text) == expected
    assert processor.id_to_piece([tokenizer.cls, tokenizer.sep]) == ["[CLS]", "[SEP]"]


def test_sentencepiece_is_written_and_read(tmp_path):
    folder = rembert(tmp_path / "rembert")
    checkpoint, params = bleurt.describe(folder), read(folder)
    bleurt.write(tmp_path / "tuned", checkpoint, params)
    assert_same(params, read(tmp_path / "tuned"))
    assert bleurt.describe(tmp_path / "tuned").tokenizer.ids("a bird") == checkpoint.tokenizer.ids("a bird")


def test_a_sentencepiece_model_without_marks_is_refused(tmp_path):
    from cd_jax.tasks import vocabulary

    folder = rembert(tmp_path / "rembert")
    shutil.copyfile(vocabulary.EMBEDDED, folder / "sent_piece.model")
    assert "sent_piece.model: lacks the piece [CLS]" in refused(folder)
    (folder / "sent_piece.model").write_bytes(b"")
    assert "not a SentencePiece model" in refused(folder)


# What is refused


def test_no_folder(tmp_path):
    assert "no such folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "neither bleurt_config.json nor config.json" in refused(tmp_path / "empty")


@pytest.mark.parametrize("name", ["vocab.txt", "bert_config.json", "variables/variables.index"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = write(tmp_path / "official")
    (folder / name).unlink()
    assert name in refused(folder)


def test_missing_data(tmp_path):
    folder = write(tmp_path / "official")
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    assert "variables.data-00000-of-00001: cannot be read" in refused(folder)


def test_variables_that_do_not_fit(tmp_path):
    folder, prefix = write(tmp_path / "official"), tmp_path / "official" / "variables" / "variables"

    def saved(changes: dict, without: str = "") -> str:
        bundles.save(prefix, {name: value for name, value in (variables() | changes).items() if name != without})
        return refused(folder)

    assert f"lacks the tensor {DENSE} [8, 12]" in saved({}, without=DENSE)
    assert f"the tensor {DENSE} is [12, 8]" in saved({DENSE: variables()[DENSE].T.copy()})
    assert "holds a tensor dense_1/kernel [8, 1]" in saved({"dense_1/kernel": np.zeros((8, 1), np.float32)})
    assert f"the tensor {DENSE} holds NaN" in saved({DENSE: np.full((8, 12), np.nan, np.float32)})
    assert f"the variable {DENSE} is int32" in saved({DENSE: np.zeros((8, 12), np.int32)})


def test_tensors_that_do_not_fit(tmp_path):
    folder = write(tmp_path / "tuned", safetensors=True)
    file, name = folder / "model.safetensors", "bert.encoder.layer.1.intermediate.dense.weight"
    whole = load_file(file)
    save_file({other: value for other, value in whole.items() if other != name}, file)
    assert f"lacks the tensor {name} [8, 12]" in refused(folder)
    save_file(whole | {name: np.zeros((12, 9), np.float32)}, file)
    assert f"the tensor {name} is [9, 12]" in refused(folder)
    save_file(whole | {"cls.predictions.bias": np.zeros(3, np.float32)}, file)
    assert "cls.predictions.bias [3]" in refused(folder)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("bert_config.json", {"hidden_size": "8"}, "hidden_size='8' is not a whole number"),
        ("bert_config.json", {"num_attention_heads": 3}, "num_attention_heads=3 do not divide hidden_size=8"),
        ("bert_config.json", {"num_hidden_layers": None}, "lacks num_hidden_layers"),
        ("bert_config.json", {"hidden_act": "swish"}, "hidden_act='swish'"),
        ("bert_config.json", {"hidden_dropout_prob": 1}, "hidden_dropout_prob='1' is not in 0..1"),
        ("bert_config.json", {"position_embedding_type": "relative"}, "only 'absolute'"),
        ("bert_config.json", {"vocab_size": 9}, "has 24 pieces, the network's embedding 9 rows"),
        ("bleurt_config.json", {"max_seq_length": 41}, "max_seq_length='41' is not a whole number in 8..40"),
        ("bleurt_config.json", {"vocab_file": "../vocab.txt"}, "no name of a file in its folder"),
        ("bleurt_config.json", {"vocab_file": None}, "sp_model='None'"),
    ],
)
def test_configurations_that_cannot_be(tmp_path, file, changes, said):
    folder = write(tmp_path / "official")
    bundles.change_json(folder / file, **changes)
    assert said in refused(folder)
