"""Vocabularies that come in from Hugging Face's folders: the ids of transformers, or a refusal in one line."""

import base64
import json
import pathlib
import random

import pytest
import sentencepiece
import test_tokenizers
from sentencepiece import sentencepiece_model_pb2

from cd_jax.errors import RequestError
from cd_jax.tasks import vocabulary
from cd_jax.weights import tokenizers, vocabularies

ROWS = 4000
# Where sentinels and other added tokens stand: between words, glued to them, at the ends, beside one another.
MARKED = [
    "a {} b", "a{}b", "{} went", "the  {}  {}.", "({})", "a {}, b", "{}", " {} ", "{}{}", "a\t{}\n b", "<{}>",
    "x{}{} y",
]  # fmt: skip


def pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return list(map(processor.id_to_piece, range(processor.get_piece_size())))


def loaded(content: bytes, folder: pathlib.Path):
    (folder / "loaded.model").write_bytes(content)
    return vocabulary.load(folder / "loaded.model")


def as_transformers_5_writes(model: bytes, sentinels: int = 100, **more) -> dict:
    """A T5Tokenizer's `tokenizer.json`, built from its description there (transformers 5.24, `tokenization_t5`)."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    vocab = [[piece.piece, piece.score] for piece in proto.pieces]
    vocab += [[f"<extra_id_{i}>", 0.0] for i in reversed(range(sentinels))]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": vocab[i][0], **plain} for i in (0, 1, 2, *range(len(proto.pieces), len(vocab)))]
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": None,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False},
    } | more


@pytest.fixture(scope="module")
def unigram() -> bytes:
    return test_tokenizers.trained(vocab_size=400)


@pytest.fixture
def folder(tmp_path, unigram) -> pathlib.Path:
    """A T5 of Hugging Face's before transformers 5: `spiece.model` alone, which names no sentinel."""
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "spiece.model").write_bytes(unigram)
    return tmp_path / "hf"


def write(folder: pathlib.Path, name: str, content) -> None:
    (folder / name).write_text(json.dumps(content))


# Sentinels


@pytest.mark.parametrize("form", MARKED)
def test_a_sentinel_is_one_id_and_what_is_beside_it_a_word(folder, unigram, form, tmp_path):
    read = loaded(vocabularies.of_folder(folder, ROWS), tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=unigram)
    size = processor.get_piece_size()
    parts = form.split("{}")
    expected = processor.encode(parts[0])
    for number, part in enumerate(parts[1:]):
        expected += [size + 99 - number, *processor.encode(part)]
    text = form.format(*(f"<extra_id_{i}>" for i in range(len(parts) - 1)))
    assert read.encode(text) == expected
    assert read.encode_tf(text).numpy().tolist() == expected
    # Words and sentinels, with a space between them.
    said = [processor.decode(processor.encode(part)) for part in parts]
    marked = [said[0]]
    for number, part in enumerate(said[1:]):
        marked += [f"<extra_id_{number}>", part]
    assert read.decode(expected) == " ".join(filter(None, marked))


def test_where_there_is_no_room_there_are_no_sentinels(folder, unigram):
    assert pieces_of(vocabularies.of_folder(folder, 499)) == pieces_of(unigram)
    assert len(pieces_of(vocabularies.of_folder(folder, 500))) == 500
    write(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 0})
    assert pieces_of(vocabularies.of_folder(folder, 500)) == pieces_of(unigram)


def test_texts_without_added_tokens_are_sentencepieces(folder, unigram, tmp_path):
    read = loaded(vocabularies.of_folder(folder, ROWS), tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=unigram)
    for text in test_tokenizers.samples()[:1500]:
        assert read.encode(text) == processor.encode(text)


# Other added tokens


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_added_tokens_have_their_ids(folder, unigram, tmp_path, where):
    tokens = {f"<extra_id_{i}>": 499 - i for i in range(100)} | {"<sep>": 500, "FOO": 501}
    if where == "added_tokens.json":
        write(folder, where, tokens)
    elif where == "tokenizer_config.json":
        write(folder, where, {"added_tokens_decoder": {str(number): {"content": t} for t, number in tokens.items()}})
    else:
        (folder / "spiece.model").unlink()
        described = as_transformers_5_writes(unigram)
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
        described["added_tokens"] += [{"id": 500, "content": "<sep>", **plain}, {"id": 501, "content": "FOO", **plain}]
        write(folder, where, described)
    read = loaded(vocabularies.of_folder(folder, ROWS), tmp_path)
    a, b = read.encode("a"), read.encode("b")
    assert read.encode("a <sep> b") == read.encode("a<sep>b") == [*a, 500, *b]
    assert read.encode("aFOO <extra_id_3>b") == [*a, 501, 496, *b]
    assert read.decode([*a, 500, *b, 501]) == "a <sep> b FOO"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("added_tokens.json", {"<sep>": 600}, r"the added token '<sep>' has the id 600, but none has the one before"),
        ("added_tokens.json", {"<sep>": 7}, r"the added token '<sep>' has the id 7 of the piece"),
        ("added_tokens.json", {"a b": 500}, r"the added token 'a b' \('500'\) is no word with an id"),
        ("added_tokens.json", {"<sep>": "x"}, r"the added token '<sep>' \('x'\) is no word with an id"),
        ("added_tokens.json", {"<sep>": -1}, r"is no word with an id"),
        ("added_tokens.json", {"\ud800": 400}, r"the added token '.ud800' \('400'\) is no word with an id"),
        ("added_tokens.json", {"<sep>": 2**70}, r"but none has the one before"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder is no object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"400": "x"}}, r"is no word with an id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}, r"is no word with an id"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"400": {"content": "x", "single_word": True}}},
            "one of whole words, which cannot be imported",
        ),
        ("tokenizer_config.json", {"extra_ids": 50}, "extra_ids=50; only 0 and 100"),
        ("tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer"}, "is a ByT5, which reads bytes"),
        ("tokenizer.json", {"added_tokens": [1]}, "added_tokens are no list of objects"),
        ("tokenizer.json", [], "not a JSON object"),
    ],
)
def test_added_tokens_that_cannot_be_are_refused(folder, name, content, message):
    write(folder, name, content)
    with pytest.raises(RequestError, match=message) as raised:
        vocabularies.of_folder(folder, ROWS)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


SENTINELS = {f"<extra_id_{i}>": 499 - i for i in range(100)}


def settings(tokens: dict[int, str]) -> dict:
    return {"added_tokens_decoder": {str(number): {"content": token} for number, token in tokens.items()}}


def listed(number: int, token: str) -> dict:
    return {"added_tokens": [{"id": number, "content": token}]}


@pytest.mark.parametrize(
    ("contents", "first", "message"),
    [
        (
            {"added_tokens.json": SENTINELS | {"<sep>": 500}, "tokenizer_config.json": settings({501: "<sep>"})},
            "tokenizer_config.json",
            "the added token '<sep>' has the id 501, and 500 in added_tokens.json",
        ),
        (
            {"added_tokens.json": SENTINELS | {"<sep>": 500}, "tokenizer_config.json": settings({500: "<cls>"})},
            "tokenizer_config.json",
            "the added token '<cls>' has the id 500, which '<sep>' has in added_tokens.json",
        ),
        (
            {"added_tokens.json": SENTINELS | {"<sep>": 500, "<cls>": 500}},
            "added_tokens.json",
            "the added token '<cls>' has the id 500, which '<sep>' has in added_tokens.json",
        ),
        (
            {"tokenizer_config.json": settings({400: "<sep>"}), "tokenizer.json": listed(400, "x")},
            "tokenizer.json",
            "the added token 'x' has the id 400, which '<sep>' has in tokenizer_config.json",
        ),
        (
            {"tokenizer_config.json": settings({400: "<sep>"}), "tokenizer.json": listed(401, "<sep>")},
            "tokenizer.json",
            "the added token '<sep>' has the id 401, and 400 in tokenizer_config.json",
        ),
        (
            {"tokenizer_config.json": settings({7: "<sep>"})},
            "tokenizer_config.json",
            "the added token '<sep>' has the id 7 of the piece '.*' of spiece.model",
        ),
        (
            {"tokenizer_config.json": settings({1: "<s>"})},
            "tokenizer_config.json",
            "the added token '<s>' has the id 1 of the piece '</s>' of spiece.model",
        ),
        (
            {"added_tokens.json": {"<pad>": 400}},
            "added_tokens.json",
            "the added token '<pad>' has the id 400, and the piece '<pad>' of spiece.model 0",
        ),
        (
            {"added_tokens.json": {"John": 400}},
            "added_tokens.json",
            "the added token 'John' has the id 400, and the piece '▁John' of spiece.model [0-9]+",
        ),
    ],
)  # fmt: skip
def test_files_that_contradict_one_another_are_refused(folder, contents, first, message):
    for name, content in contents.items():
        write(folder, name, content)
    with pytest.raises(RequestError, match=f"^{folder / first}: {message}; copy both again, whole, or give") as raised:
        vocabularies.of_folder(folder, ROWS)
    assert "\n" not in str(raised.value)


def test_files_that_say_the_same_are_read(folder):
    tokens = SENTINELS | {"<sep>": 500}
    write(folder, "added_tokens.json", tokens)
    alone = vocabularies.of_folder(folder, ROWS)
    by_id = {number: token for token, number in tokens.items()}
    write(folder, "tokenizer_config.json", settings({0: "<pad>", 1: "</s>", 2: "<unk>"} | by_id))
    write(folder, "tokenizer.json", {"added_tokens": [{"id": i, "content": token} for i, token in by_id.items()] * 2})
    assert vocabularies.of_folder(folder, ROWS) == alone


def test_a_tokenizer_json_that_contradicts_itself_is_refused(folder, unigram):
    (folder / "spiece.model").unlink()
    described = as_transformers_5_writes(unigram)
    described["added_tokens"][-1]["content"] = "<sep>"
    write(folder, "tokenizer.json", described)
    with pytest.raises(RequestError, match="the added token '<sep>' has the id 499 of the piece '<extra_id_0>'"):
        vocabularies.of_folder(folder, ROWS)


def test_a_folder_without_a_vocabulary_says_what_to_give(folder):
    (folder / "spiece.model").unlink()
    with pytest.raises(RequestError, match="holds no vocabulary .*; give --vocabulary=FILE"):
        vocabularies.of_folder(folder, ROWS)


# tokenizer.json alone


@pytest.mark.parametrize("sentinels", [0, 100])
def test_what_transformers_5_writes_gives_the_ids_of_its_sentencepiece_model(folder, unigram, tmp_path, sentinels):
    (folder / "spiece.model").unlink()
    write(folder, "tokenizer.json", as_transformers_5_writes(unigram, sentinels))
    content = vocabularies.of_folder(folder, ROWS)
    read, processor = loaded(content, tmp_path), sentencepiece.SentencePieceProcessor(model_proto=unigram)
    assert pieces_of(content)[:400] == pieces_of(unigram)
    assert pieces_of(content)[400:] == [f"▁<extra_id_{i}>" for i in reversed(range(sentinels))]
    for text in test_tokenizers.samples():
        assert read.encode(text) == processor.encode(text), text


@pytest.mark.parametrize("kind", test_tokenizers.MODELS)
def test_what_we_write_comes_back_from_tokenizer_json_alone(kind, tmp_path):
    (tmp_path / "vocabulary.model").write_bytes(test_tokenizers.MODELS[kind]())
    tokenizers.write(tmp_path, tmp_path / "vocabulary.model")
    (tmp_path / "spiece.model").unlink()
    ours, back = vocabulary.load(tmp_path / "vocabulary.model"), vocabularies.of_folder(tmp_path, ROWS)
    assert pieces_of(back) == pieces_of((tmp_path / "vocabulary.model").read_bytes())
    read = loaded(back, tmp_path)
    for text in [*test_tokenizers.samples(), *(form.format("<extra_id_0>", "<extra_id_1>") for form in MARKED)]:
        assert read.encode(text) == ours.encode(text), text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "a Lowercase that SentencePiece does not know"),
        ({"normalizer": None}, "spaces of another kind"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "a broken map of characters"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "a ByteLevel that"),
        ({"pre_tokenizer": None}, "spaces of another kind"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "a model of type 'WordPiece'"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<pad>", 0.0]] * 3}}, "unk_id of another kind"),
        ({"model": {"type": "Unigram", "unk_id": 2, "vocab": 7}}, "none that SentencePiece can be"),
        ({"model": {"type": "Unigram"}}, "lacks 'vocab'"),
        ({"model": {"type": "Unigram", "unk_id": 2, "vocab": [["a"]]}}, "none that SentencePiece can be"),
        ({"model": {}}, "lacks 'type'"),
        ({"added_tokens": None}, "no list of objects"),
    ],
)
def test_another_tokenizer_is_refused(folder, unigram, changes, message):
    (folder / "spiece.model").unlink()
    write(folder, "tokenizer.json", as_transformers_5_writes(unigram) | changes)
    with pytest.raises(RequestError, match=message) as raised:
        vocabularies.of_folder(folder, ROWS)
    assert str(folder / "tokenizer.json") in str(raised.value) and "\n" not in str(raised.value)


def test_byte_pairs_in_another_order_than_sentencepieces_are_refused(tmp_path):
    (tmp_path / "vocabulary.model").write_bytes(vocabulary.EMBEDDED.read_bytes())
    tokenizers.write(tmp_path, tmp_path / "vocabulary.model")
    (tmp_path / "spiece.model").unlink()
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    merges = described["model"]["merges"]
    # A piece that two pairs make, one of them much later: SentencePiece has one rank for both.
    last = next(i for i in range(len(merges) - 1, 0, -1) if "".join(merges[i]) == "".join(merges[i - 1]))
    merges.insert(0, merges.pop(last))
    write(tmp_path, "tokenizer.json", described)
    with pytest.raises(RequestError, match="merges of another kind than SentencePiece's"):
        vocabularies.of_folder(tmp_path, ROWS)


# Against transformers


@pytest.mark.parametrize("form", ["spiece.model", "tokenizer.json", "added"])
def test_ids_and_texts_are_those_of_transformers(folder, form, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is lacking: pip install cd_jax[interop]")
    write(folder, "config.json", {"model_type": "t5"})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if form == "added":
        theirs.add_tokens(["<sep>", "FOO"])
    if form != "spiece.model":
        theirs.save_pretrained(tmp_path / "saved")
        folder = tmp_path / "saved"
        assert not (folder / "spiece.model").exists()
    read = loaded(vocabularies.of_folder(folder, ROWS), tmp_path)
    assert read.vocab_size == len(theirs)
    rng = random.Random(0)
    tokens = [f"<extra_id_{i}>" for i in range(101)] + (["<sep>", "FOO"] if form == "added" else [])
    texts = [form.format(*rng.choices(tokens, k=2)) for form in MARKED * 50] + test_tokenizers.samples()
    for text in texts:
        ids = theirs(text).input_ids[:-1]
        assert read.encode(text) == ids, text
        if 2 not in ids:
            # No space before an added token there.
            assert read.decode(ids).replace(" ", "") == theirs.decode(ids).replace(" ", ""), text
