"""The reader of the original Com2Sense files, and the embedded pairs."""

import collections
import importlib.resources
import itertools
import json
import re

import pytest

from cd_jax.errors import RequestError
from cd_jax.tasks.com2sense import pairs, reader
from originals import COM2SENSE_DIR, needs_com2sense

SPLITS = ("train", "validation", "test")
FILES = {"train": "train", "validation": "train", "test": "dev", "unlabelled": "test"}


def row(number, label="True", **changes):
    return {
        "id": f"id{number:02d}" if isinstance(number, int) else f"id{number}",
        "sent": f"Statement {number}. ",
        "label": label,
        "domain": "time",
    } | changes


def write(folder, rows, partners, name="dev"):
    (folder / f"{name}.json").write_text(rows if isinstance(rows, str) else json.dumps(rows, indent=1))
    (folder / f"pair_id_{name}.json").write_text(
        partners if isinstance(partners, str) else json.dumps(partners, indent=1)
    )
    return folder


def mutual(*couples):
    return {one: other for a, b in couples for one, other in ((a, b), (b, a))}


def ids(examples):
    return [example.example_id.rsplit("/", 1)[1] for example in examples]


def test_pairs_are_adjacent_and_unpaired_rows_stay(tmp_path):
    rows = [row(3), row(9), row(1, "False"), row(5), row(2, "False", sent="Two  blanks.  "), row(4)]
    partners = mutual(("id03", "id02"), ("id05", "id01"), ("id09", "absent"), ("id04", "lost"))
    examples = reader.read(write(tmp_path, rows, partners), "test", "c2s")
    assert ids(examples) == ["id03", "id02", "id09", "id01", "id05", "id04"]
    first, second, alone = examples[:3]
    assert first.example_id == "c2s/test/id03"
    assert (first.context, first.question, first.answer) == ("Statement 3.", "Does this make sense?", "yes")
    assert (second.context, second.answer) == ("Two blanks.", "no")
    assert (first.contrast, second.contrast) == (second.context, first.context)
    assert first.pair_id == second.pair_id == "id02"
    assert (alone.contrast, alone.pair_id) == ("", "")


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (9, 1), (20, 2)])
def test_holds_out_whole_pairs(tmp_path, count, held_out):
    rows = [row(n, "True") for n in range(count)] + [row(99)] + [row(n + count, "False") for n in range(count)]
    partners = mutual(*((f"id{n:02d}", f"id{n + count:02d}") for n in range(count)), ("id99", "absent"))
    write(tmp_path, rows, partners, "train")
    train, validation = (reader.read(tmp_path, split, "t") for split in ("train", "validation"))
    assert len(validation) == 2 * held_out
    assert {e.pair_id for e in validation} == {f"id{n:02d}" for n in range(count - held_out, count)}
    assert len(train) == 2 * (count - held_out) + 1
    assert "id99" in ids(train)


@pytest.mark.parametrize(
    ("spelt", "read"),
    [
        ({"domain": "time", "scenario": "causal", "numeracy": "True"}, ("time", "causal", "true")),
        ({"domain": "temporal", "scenario": "comparative", "numeracy": "Flase"}, ("time", "comparison", "false")),
        ({"domain": " Social", "scenario": "COMPARISON", "numeracy": "False"}, ("social", "comparison", "false")),
        ({"domain": "Naive  Physics", "scenario": "physical"}, ("naive physics", "physical", "")),
        ({"scenario": "causal"}, ("time", "causal", "")),
    ],
)
def test_spellings_are_unified(tmp_path, spelt, read):
    write(tmp_path, [row(1, **spelt), row(2, "False")], COUPLE)
    first, second = reader.read(tmp_path, "test", "t")
    assert (first.domain, first.scenario, first.numeracy) == read
    assert (second.domain, second.scenario, second.numeracy) == ("time", "", "")


def test_unlabelled_is_in_the_order_of_its_file(tmp_path):
    rows = [{key: value for key, value in row(n).items() if key != "label"} for n in (2, 7, 1, 3, 5)]
    write(tmp_path, rows, mutual(("id01", "id02"), ("id05", "id07"), ("id03", "absent")), "test")
    examples = reader.read(tmp_path, "unlabelled", "c2s")
    assert [e.example_id for e in examples] == [f"c2s/unlabelled/id{n:02d}" for n in (2, 7, 1, 3, 5)]
    assert {e.answer for e in examples} == {""}
    assert [e.pair_id for e in examples] == ["id01", "id05", "id01", "", "id05"]
    assert examples[0].contrast == "Statement 1."


PAIR = [row(1), row(2, "False")]
COUPLE = mutual(("id01", "id02"))


@pytest.mark.parametrize(
    ("rows", "partners", "parts"),
    [
        ('[\n{"id": "a",\n}]', {}, ["/dev.json: not JSON: ", " at line 3 column 1"]),
        (PAIR, '{\n\n"id01"}', ["/pair_id_dev.json: not JSON: ", " at line 3 column 7"]),
        ({}, {}, ["/dev.json: not a JSON array"]),
        (PAIR, [], ["/pair_id_dev.json: not a JSON object"]),
        ([*PAIR, 3], COUPLE, ["statement 3", "not an object"]),
        ([PAIR[0], {"id": "b", "sent": "B."}], COUPLE, ["statement 2", "'label' is missing"]),
        ([PAIR[0], {"id": "b", "label": "True"}], COUPLE, ["statement 2", "'sent' is missing"]),
        ([row(1, sent=" \n")], {}, ["statement 1", "'sent' is ' \\n'"]),
        ([row(1, sent=None)], {}, ["statement 1", "'sent' is None"]),
        ([row(1, "true")], {}, ["statement 1", "label 'true'", "'True' or 'False'"]),
        ([*PAIR, row(1)], COUPLE, ["statement 3", "'id01' stands there twice"]),
        (PAIR, {"id01": "id02", "id02": "id03", "id03": "id02"}, ["/pair_id_dev.json: 'id01'", "name each other"]),
        (PAIR, {"id01": "id02"}, ["'id01' is paired with 'id02'", "paired with None"]),
        (PAIR, {"id01": "id01"}, ["'id01' is paired with 'id01'"]),
        (PAIR, {"id01": ["id02"]}, ["'id01' is paired with ['id02']"]),
        ([row(1), row(2)], COUPLE, ["'id01' and 'id02' have the same label"]),
        ([], COUPLE, ["/dev.json: empty"]),
        (PAIR, {}, ["/pair_id_dev.json: empty"]),
        ([*PAIR, row(3)], COUPLE, ["/pair_id_dev.json: has no complement of 'id03', statement 3"]),
        (PAIR, mutual(("id03", "id04")), ["/pair_id_dev.json: pairs no two of the 2 statements"]),
        ([PAIR[0], row(2, "False", domain=3)], COUPLE, ["statement 2", "'domain' is 3"]),
        ([row(1, scenario=""), PAIR[1]], COUPLE, ["statement 1", "'scenario' is ''"]),
        ([row(1, numeracy=True), PAIR[1]], COUPLE, ["statement 1", "'numeracy' is True", "a string"]),
        ([row(1, numeracy="Tree"), PAIR[1]], COUPLE, ["statement 1", "numeracy 'Tree'", "'True' or 'False'"]),
        ([row(1, numeracy=float("nan")), PAIR[1]], COUPLE, ["/dev.json: not JSON: NaN is no number"]),
        ([PAIR[0], row(2, "False", sent=float("inf"))], COUPLE, ["/dev.json: not JSON: Infinity is no number"]),
        ([PAIR[0], row(2, "False", sents="B.")], COUPLE, ["statement 2", "key 'sents' is none of id, sent, label"]),
        ([PAIR[0], row("1/2")], COUPLE, ["statement 2", "id 'id1/2' has a blank or a slash"]),
        ([PAIR[0], row("1 2")], COUPLE, ["statement 2", "id 'id1 2' has a blank or a slash"]),
        ([PAIR[0], row(2, "False", sent="B\x00.")], COUPLE, ["statement 2", "'sent' has the character U+0000"]),
        ([PAIR[0], row(2, "False", sent="B\ud800.")], COUPLE, ["statement 2", "'sent' has the character U+D800"]),
        ([PAIR[0], row(2, "False", domain="ti\x7fme")], COUPLE, ["statement 2", "'domain' has the character U+007F"]),
        ([PAIR[0], row("\ud800")], COUPLE, ["statement 2", "'id' has the character U+D800"]),
        ('[{"id": "a", "sent": "A.", "sent": "B."}]', COUPLE, ["/dev.json: 'sent' stands twice in an object"]),
        (
            PAIR,
            '{"id01": "id02", "id02": "id01", "id01": "id02"}',
            ["/pair_id_dev.json: 'id01' stands twice in an object"],
        ),
        ('[{"id": "a", "label": "True", "sent": ' + "9" * 5000 + "}]", COUPLE, ["/dev.json: ", "4300 digits"]),
        (PAIR, '{"id01": ' + "9" * 5000 + "}", ["/pair_id_dev.json: ", "4300 digits"]),
        ("[" * 100_000, COUPLE, ["/dev.json: not JSON that anyone wrote: nested too deep"]),
        (PAIR, '{"a":' * 100_000, ["/pair_id_dev.json: not JSON that anyone wrote: nested too deep"]),
        ([PAIR[0], row(2, "False", sent=[["B."] * 99] * 99)], COUPLE, ["statement 2", "'sent' is [["]),
    ],
)
def test_malformed_file(tmp_path, rows, partners, parts):
    with pytest.raises(RequestError) as error:
        reader.read(write(tmp_path, rows, partners), "test", "t")
    message = str(error.value)
    assert message.startswith(str(tmp_path))
    assert "\n" not in message
    assert ";" in message
    assert len(message) < len(str(tmp_path)) + 250
    for part in parts:
        assert part in message


def test_not_utf8(tmp_path):
    write(tmp_path, PAIR, COUPLE)
    (tmp_path / "dev.json").write_bytes(b"[\n\xff]")
    with pytest.raises(RequestError, match=r"dev\.json: not UTF-8 at byte 2; restore"):
        reader.read(tmp_path, "test", "t")


@pytest.mark.parametrize("lost", ["dev.json", "pair_id_dev.json"])
def test_missing_file(tmp_path, lost):
    (write(tmp_path, PAIR, COUPLE) / lost).unlink()
    with pytest.raises(RequestError, match=f"/{re.escape(lost)}: no such file; give --com2sense_dir"):
        reader.read(tmp_path, "test", "t")


def test_missing_folder_and_split(tmp_path):
    with pytest.raises(RequestError, match="no such folder; give --com2sense_dir"):
        reader.read(tmp_path / "nowhere", "test", "t")
    with pytest.raises(RequestError, match="no split 'dev'; choose one of"):
        reader.read(tmp_path, "dev", "t")


def test_too_few_pairs_to_hold_out(tmp_path):
    with pytest.raises(RequestError, match=r"train\.json: 1 pairs"):
        reader.read(write(tmp_path, PAIR, COUPLE, "train"), "validation", "t")


def test_damage_in_the_unlabelled_split(tmp_path):
    write(tmp_path, [*PAIR, {"id": "id03", "label": "True"}], COUPLE, "test")
    with pytest.raises(RequestError, match=r"/test\.json: statement 3: key 'sent' is missing; add it"):
        reader.read(tmp_path, "unlabelled", "t")
    (tmp_path / "pair_id_test.json").unlink()
    (tmp_path / "test.json").write_text(json.dumps(PAIR))
    with pytest.raises(RequestError, match=r"/pair_id_test\.json: no such file; give --com2sense_dir .* test\.json"):
        reader.read(tmp_path, "unlabelled", "t")


def assert_pairs_are_consistent(examples):
    assert len({e.example_id for e in examples}) == len(examples)
    for first, second in zip(examples[::2], examples[1::2], strict=True):
        assert first.pair_id == second.pair_id != ""
        assert {first.answer, second.answer} == {"yes", "no"}
        assert (first.contrast, second.contrast) == (second.context, first.context)
    # A pair's two members stand together, so each pair id fills exactly one of the couples above.
    assert set(collections.Counter(e.pair_id for e in examples).values()) == {2}


@needs_com2sense
@pytest.mark.parametrize(("split", "count"), [("train", 1448), ("validation", 160), ("test", 782)])
def test_original_splits(split, count):
    examples = reader.read(COM2SENSE_DIR, split, "t")
    assert len(examples) == count
    assert_pairs_are_consistent(examples)
    assert not any(e.context != e.context.strip() or "  " in e.context for e in examples)


@needs_com2sense
@pytest.mark.parametrize(
    ("splits", "rows", "unpaired", "domains", "scenarios", "numeracy"),
    [
        (
            ("train", "validation"),
            1608,
            0,
            {"physical": 536, "social": 536, "time": 536},
            {"causal": 804, "comparison": 804},
            {"false": 1066, "true": 542},
        ),
        (
            ("test",),
            782,
            0,
            {"physical": 269, "social": 258, "time": 255},
            {"causal": 394, "comparison": 387, "physical": 1},
            {"false": 496, "true": 286},
        ),
        (
            ("unlabelled",),
            5558,
            0,
            {"physical": 2104, "social": 1679, "time": 1775},
            {"causal": 2690, "comparison": 2868},
            {"false": 3303, "true": 2255},
        ),
    ],
)
def test_original_counts(splits, rows, unpaired, domains, scenarios, numeracy):
    examples = [e for split in splits for e in reader.read(COM2SENSE_DIR, split, "t")]
    name = FILES[splits[0]]
    original = json.loads((COM2SENSE_DIR / f"{name}.json").read_text())
    partner = json.loads((COM2SENSE_DIR / f"pair_id_{name}.json").read_text())
    ids_there = {r["id"] for r in original}
    assert len(examples) == len(original) == rows
    assert sum(not e.pair_id for e in examples) == sum(partner.get(i) not in ids_there for i in ids_there) == unpaired
    for key, counts in (("domain", domains), ("scenario", scenarios), ("numeracy", numeracy)):
        assert collections.Counter(getattr(e, key) for e in examples) == counts
        # The initials are the same in all spellings, and tell the values apart but for the two of the scenarios.
        length = 2 if key == "scenario" else 1
        raw = collections.Counter(r[key][:length].lower() for r in original)
        assert raw == {value[:length]: count for value, count in counts.items()}


@needs_com2sense
def test_original_unlabelled_split():
    examples = reader.read(COM2SENSE_DIR, "unlabelled", "t")
    original = json.loads((COM2SENSE_DIR / "test.json").read_text())
    assert ids(examples) == [r["id"] for r in original]
    assert [e.context for e in examples] == [re.sub(" +", " ", r["sent"]).strip() for r in original]
    assert {e.answer for e in examples} == {""}
    assert set(collections.Counter(e.pair_id for e in examples).values()) == {2}


@needs_com2sense
def test_original_splits_are_disjoint():
    seen = [{e.context for e in reader.read(COM2SENSE_DIR, split, "t")} for split in SPLITS]
    assert len(set.union(*seen)) == sum(map(len, seen))


@needs_com2sense
def test_original_order():
    examples = reader.read(COM2SENSE_DIR, "test", "t")
    original = [r["id"] for r in json.loads((COM2SENSE_DIR / "dev.json").read_text())]
    firsts = [original.index(i) for i in ids(examples)[::2]]
    assert firsts == sorted(firsts)
    assert set(ids(examples)) == set(original)


@pytest.mark.parametrize(("split", "count"), [("train", 80), ("validation", 15), ("test", 25)])
def test_embedded_splits(split, count):
    examples = pairs.read(split, "pairs")
    assert len(examples) == 2 * count
    assert_pairs_are_consistent(examples)
    assert {e.question for e in examples} == {reader.QUESTION}
    firsts = [e.answer for e in examples[::2]]
    assert all(one != other for one, other in itertools.pairwise(firsts))
    assert examples == pairs.read(split, "pairs")


@pytest.mark.parametrize("split", SPLITS)
def test_no_word_of_the_embedded_pairs_gives_the_answer_away(split):
    counts = {"yes": collections.Counter(), "no": collections.Counter()}
    for example in pairs.read(split, "pairs"):
        counts[example.answer].update(re.findall(r"\w+", example.context.lower()))
    assert counts["yes"] == counts["no"]


def test_embedded_statements_are_unique_across_splits():
    contexts = [e.context for split in SPLITS for e in pairs.read(split, "pairs")]
    assert len(contexts) == len(set(contexts)) == 240
    pair_ids = [{e.pair_id for e in pairs.read(split, "pairs")} for split in SPLITS]
    assert len(set.union(*pair_ids)) == sum(map(len, pair_ids))


def test_embedded_file():
    text = importlib.resources.files(pairs.__package__).joinpath("pairs.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    for key, allowed in {
        "domain": {"physical", "social", "time"},
        "scenario": {"causal", "comparison"},
        "numeracy": {True, False},
    }.items():
        assert {r[key] for r in rows} == allowed
    for statement in (r[side] for r in rows for side in ("true", "false")):
        assert len(statement.split()) <= 18
        assert re.fullmatch(r"[A-Z][a-z]*\b[\w ,-]*\.", statement)


def test_embedded_pairs_have_no_other_split():
    with pytest.raises(RequestError, match="no split 'dev'; choose one of"):
        pairs.read("dev", "t")
    with pytest.raises(RequestError, match="no split 'unlabelled'; give --com2sense_dir"):
        pairs.read("unlabelled", "t")


def test_embedded_pairs_have_the_spellings_of_the_reader():
    examples = [e for split in SPLITS for e in pairs.read(split, "t")]
    assert {e.domain for e in examples} == {"physical", "social", "time"}
    assert {e.scenario for e in examples} == {"causal", "comparison"}
    assert {e.numeracy for e in examples} == {"true", "false"}


@needs_com2sense
def test_embedded_pairs_are_not_those_of_com2sense():
    originals = {e.context.lower() for split in SPLITS for e in reader.read(COM2SENSE_DIR, split, "t")}
    assert not originals & {e.context.lower() for split in SPLITS for e in pairs.read(split, "t")}
