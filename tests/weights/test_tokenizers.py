"""Hugging Face's tokenizers against SentencePiece, whose models they are made from: the same ids, the same text."""

import io
import json
import pathlib
import random
import tempfile

import pytest
import sentencepiece

from cd_jax.errors import RequestError
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.weights import tokenizers
from cd_jax.weights import vocabularies as incoming

TEXTS = vocabularies.embedded_texts()


def trained(**options) -> bytes:
    """A SentencePiece model with T5's special ids."""
    model = io.BytesIO()
    given = {"model_type": "unigram", "vocab_size": 700, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, hard_vocab_limit=False, minloglevel=2, **given
    )
    return model.getvalue()


def with_sentinels(content: bytes, rows: int = 4000) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        pathlib.Path(file.name).write_bytes(content)
        return incoming.with_sentinels(pathlib.Path(file.name), rows)


MODELS = {
    "ours": vocabularies.EMBEDDED.read_bytes,
    "t5s unigram": lambda: with_sentinels(trained()),
    "unigram with bytes": lambda: trained(byte_fallback=True),
    "byte pairs without bytes": lambda: trained(model_type="bpe"),
    "spaces kept": lambda: trained(normalization_rule_name="identity", remove_extra_whitespaces=False),
}


def samples() -> list[str]:
    """Texts of the tasks; letters and spaces at random; signs that are mapped, unknown, or fall back to bytes."""
    rng = random.Random(0)
    letters, signs = "aabbeehhlllooott   nrsiwy.,:?! 0123\t\n", "éÉñ☃中文日本ﬁ①Ａｂｃ‘’…\u00a0\u3000🙂ß½İ"
    drawn = ["".join(rng.choices(letters, k=rng.randint(0, 60))) for _ in range(1000)]
    drawn += ["".join(rng.choices(letters + signs, k=rng.randint(0, 30))) for _ in range(1000)]
    return [*rng.sample(TEXTS, 500), *drawn, "", " ", "  ", "\n", " a", "a ", "x" * 300, "llllllooooo"]


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    """SentencePiece's processor, and what transformers loads from the folder that we wrote."""
    why = "Hugging Face's tokenizers are lacking: pip install cd_jax[interop]"
    transformers = pytest.importorskip("transformers", reason=why)
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = folder / "vocabulary.model"
    vocabulary.write_bytes(MODELS[request.param]())
    tokenizers.write(folder, vocabulary)
    # AutoTokenizer looks there for the kind of the model.
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    return processor, transformers.AutoTokenizer.from_pretrained(folder)


def test_ids_are_sentencepieces(both):
    processor, tokenizer = both
    wrong = [text for text in samples() if tokenizer(text).input_ids != [*processor.encode(text), 1]]
    assert len(wrong) < 5
    assert not any(text in TEXTS for text in wrong)
    for text in wrong:
        # Where two ways to split a word have the same unigram score, either may be taken.
        theirs, ours = tokenizer(text).input_ids[:-1], processor.encode(text)
        assert processor.decode(theirs) == processor.decode(ours)
        assert sum(map(processor.get_score, theirs)) == pytest.approx(sum(map(processor.get_score, ours)), abs=1e-4)


def test_texts_are_sentencepieces(both):
    processor, tokenizer = both
    rows = [processor.encode(text) for text in samples()]
    # An unknown piece is ⁇ to one and <unk> to the other.
    known = [row for row in rows if 2 not in row]
    assert len(known) > 400
    for row in known:
        assert tokenizer.decode([*row, 1, 0, 0], skip_special_tokens=True) == processor.decode(row)


def test_special_tokens_and_batches(both):
    processor, tokenizer = both
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    batch = tokenizer(["John went.", "to"], padding=True)
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch["input_ids"][1][-2:] == [0, 0]
    size, sentinel = processor.get_piece_size(), tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert len(tokenizer) == size
    if processor.id_to_piece(size - 1) == "▁<extra_id_0>":
        assert sentinel == size - 1
        assert tokenizer("a <extra_id_1>").input_ids[-2:] == [sentinel - 1, 1]
    else:
        assert sentinel in (2, None)


def test_t5s_sentinels_want_room_and_a_unigram_model(tmp_path):
    size = sentencepiece.SentencePieceProcessor(model_proto=trained()).get_piece_size()
    for content, rows, expected in (
        (trained(), size + 100, 100),
        (trained(), size + 99, 0),
        (vocabularies.EMBEDDED.read_bytes(), 4000, 0),
    ):
        made = with_sentinels(content, rows)
        processor = sentencepiece.SentencePieceProcessor(model_proto=made)
        pieces = list(map(processor.id_to_piece, range(processor.get_piece_size())))
        assert pieces[len(pieces) - expected :] == [f"▁<extra_id_{i}>" for i in reversed(range(expected))]
        assert with_sentinels(made, rows) == made
        (tmp_path / "some.model").write_bytes(made)
        tokenizers.write(tmp_path, tmp_path / "some.model")
        added = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
        found = {token["content"]: token["id"] for token in added if token["content"].startswith("<extra_id_")}
        assert found == {f"<extra_id_{i}>": size + 99 - i for i in range(expected)}
        # Sentinels are no pieces of Hugging Face's: whoever reads the folder adds them.
        assert sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model")).get_piece_size() == (
            processor.get_piece_size() - expected
        )


def test_other_models_are_refused(tmp_path):
    cases = [
        (trained(pad_id=-1, eos_id=2, bos_id=1, unk_id=0), "its pieces 0, 1 and 2"),
        (trained(model_type="char"), "neither a unigram nor a byte-pair model"),
        (trained(model_type="bpe", treat_whitespace_as_suffix=True), "neither"),
        (b"", "not a SentencePiece model"),
        (vocabularies.EMBEDDED.read_bytes()[:5000], "not a SentencePiece model"),
    ]
    path = tmp_path / "some.model"
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(RequestError, match=message):
            tokenizers.read(path)
    with pytest.raises(RequestError, match="no such file"):
        tokenizers.read(tmp_path / "none.model")
