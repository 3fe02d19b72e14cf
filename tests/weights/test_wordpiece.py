"""Tests of WordPiece: what the original's own code gives for unusual texts, and Hugging Face's for plainer ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.errors import RequestError
from cd_jax.weights import wordpiece
from originals import BLEURT_DIR, needs_bleurt

# Texts and what the original's `FullTokenizer` makes of them (bleurt/lib/bert_tokenization.py at cebe7e6, Python 3.11).
UNCASED = {
    "Bud Powell was a legendary pianist.": "bud powell was a legendary pianist .",
    "unaffable, Unaffable!": "una ##ffa ##ble , una ##ffa ##ble !",
    "naïve CAFÉ Übergröße": "naive cafe uber ##gr ##o ##ße",
    "ΣΊΣΥΦΟΣ ΟΔΟΣ": "σ ##ι ##σ ##υ ##φ ##ος ο ##δ ##ος",
    "İstanbul ıI": "istanbul ı ##i",
    "日本語とtext": "日 本 語 と ##text",
    "한국어": "\u1112 ##\u1161 ##\u11ab ##\u1100 ##\u116e ##\u11a8 ##\u110b ##\u1165",
    "e\u0301\u0323x": "ex",
    "a\u200bb\ufeffc\u00adde": "abc ##de",
    "a\x00b\ufffdc\x85d\x1ce": "abc ##de",
    "x\u2028y\u2029z\u3000w\u00a0v": "x y z w v",
    "don't-stop…“q”—$5+3=8^2`|~": "don ' t - stop … “ q ” — $ 5 + 3 = 8 ^ 2 ` | ~",
    "[SEP] [CLS][unused1] [MASK]": "[ sep ] [ cl ##s ] [ unused ##1 ] [ mask ]",
    "##ing ing": "# # ing ing",
    "\ue000private \u0378unassigned": "[UNK] [UNK]",
    "\ud800lone": "[UNK]",
    "\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7\u2603\ufe0f": "[UNK] [UNK]",
    "\U00020000\u3400\uf900": "[UNK] [UNK] [UNK]",
    "ẞß ﬁ Ǆ": "ß ##ß ﬁ [UNK]",
    "١٢٣ ½ ² Ⅷ": "[UNK] ½ ² [UNK]",
    "¿Qué?、。·¡": "¿ que ? 、 。 · ¡",
    "हिन्दी नि": "ह ##ि ##न ##द ##ी न ##ि",
    "\t\n\r  ": "",
    "": "",
    "x" * 201: "[UNK]",
    "x" * 200: " ".join(["xx", *["##xx"] * 99]),
}
CASED = {
    "Bud Powell was a legendary pianist.": "[UNK] [UNK] was a legendary pianist .",
    "naïve CAFÉ Übergröße": "[UNK] [UNK] [UNK]",
}


def pieces(lower: bool, text: str) -> str:
    names = (BLEURT_DIR / "vocab.txt").read_text().splitlines()
    return " ".join(names[i] for i in wordpiece.read_wordpiece(BLEURT_DIR / "vocab.txt", lower).ids(text))


@needs_bleurt
@pytest.mark.parametrize("text", UNCASED)
def test_pieces_are_the_originals(text):
    assert pieces(True, text) == UNCASED[text]


@needs_bleurt
@pytest.mark.parametrize("text", CASED)
def test_pieces_of_cased_texts_are_the_originals(text):
    assert pieces(False, text) == CASED[text]


@needs_bleurt
def test_pieces_are_hugging_faces():
    transformers = pytest.importorskip("transformers", reason="its tokenizer is lacking: pip install cd_jax[interop]")
    for lower in (True, False):
        theirs = transformers.BertTokenizer(str(BLEURT_DIR / "vocab.txt"), do_lower_case=lower)
        ours = wordpiece.read_wordpiece(BLEURT_DIR / "vocab.txt", lower)
        # Where they are known to differ: see the module.
        differing = ("\ue000", "\u0378", "\ud800", "ΟΣ", "[SEP]", "xxx", "\x1c")
        texts = [text for text in UNCASED if not any(part in text for part in differing)]
        assert len(texts) > 15
        for text in texts:
            assert ours.ids(text) == theirs(text, add_special_tokens=False)["input_ids"], ascii(text)


def test_words():
    assert wordpiece.words("It's  Über-cool, 日本!", lower=True) == [
        "it",
        "'",
        "s",
        "uber",
        "-",
        "cool",
        ",",
        "日",
        "本",
        "!",
    ]
    assert wordpiece.words("It's Über", lower=False) == ["It", "'", "s", "Über"]


@given(st.text(), st.booleans())
def test_words_have_no_blanks_and_lose_no_letters(text, lower):
    found = wordpiece.words(text, lower)
    assert all(word and not any(char.isspace() for char in word) for word in found)
    assert wordpiece.words(" ".join(found), lower=False) == found
    if not lower:
        assert [char for char in text if char.isalnum()] == [char for char in "".join(found) if char.isalnum()]


@given(st.text(alphabet="ab#[]. "), st.booleans())
def test_the_longest_piece_is_taken(text, lower):
    vocabulary = {
        name: i for i, name in enumerate(("[UNK]", "[CLS]", "[SEP]", "a", "ab", "##a", "##b", "##ba", ".", "#"))
    }
    names = list(vocabulary)
    ids = wordpiece.WordPiece(vocabulary, lower).ids(text)
    assert all(names[i] not in ("[CLS]", "[SEP]") for i in ids)
    spelt = "".join(names[i].removeprefix("##") if names[i] != "#" else "#" for i in ids if i)
    if 0 not in ids:
        assert spelt == "".join(wordpiece.words(text, lower))


def test_a_vocabulary_without_marks_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("[CLS]\na\n")
    with pytest.raises(RequestError, match=r"vocab.txt: lacks the piece \[SEP\]; copy it again, whole"):
        wordpiece.read_wordpiece(tmp_path / "vocab.txt", True)
