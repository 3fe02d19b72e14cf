"""Catalogue, SeqIO and vocabulary."""

import collections
import itertools
import pathlib
import re

import hypothesis
import numpy as np
import pytest
import sentencepiece
import seqio
from hypothesis import strategies as st

from cd_jax import tasks
from cd_jax.errors import RequestError
from cd_jax.tasks import Catalogue, sample
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.tasks.babi.worlds import WORLDS, generate, shifts
from cd_jax.tasks.com2sense import pairs
from cd_jax.types import Example
from originals import BABI_DIR, COM2SENSE_DIR, needs_babi, needs_com2sense

SPLITS = ("train", "validation", "test")
EMBEDDED = Catalogue()


@pytest.fixture(autouse=True)
def embedded_again():
    """Whatever a test registers, the next one finds what importing `tasks` gives."""
    yield
    tasks.register()


@pytest.fixture
def vocabulary():
    return vocabularies.load()


def rows_of(dataset):
    return list(dataset.as_numpy_iterator())


def loaded(task, split):
    return rows_of(seqio.get_mixture_or_task(task).get_dataset(None, split, shuffle=False, num_epochs=1))


def assert_loads(catalogue, name, vocabulary):
    for split in SPLITS:
        expected = catalogue.examples(name, split)
        rows = loaded(name, split)
        assert [row["example_id"].decode() for row in rows] == [example.example_id for example in expected]
        assert len({example.example_id for example in expected}) == len(expected) > 0
        for row, example in zip(rows[:5] + rows[-5:], expected[:5] + expected[-5:], strict=True):
            assert row["inputs"].tolist() == [*vocabulary.encode(example.prompt), vocabulary.eos_id]
            assert row["targets"].tolist() == [*vocabulary.encode(f"answer: {example.answer}"), vocabulary.eos_id]


class TestCatalogue:
    def test_there_is_what_the_readme_and_the_gin_files_name(self):
        kinds = {f"babi_qa{n}{kind}" for n in range(1, 21) for kind in ("", "_length", "_distractors", "_low_data")}
        shifted = {"names", "places", "objects", "length", "distractors", "compositions", "short", "longer"}
        mixtures = {"babi_all", "babi_low_data", "com2sense_low_data"} | {f"babi_{shift}" for shift in shifted}
        assert set(EMBEDDED.names()) >= kinds | {"com2sense", "com2sense_100"} | mixtures
        assert {name.partition("_")[2].partition("_")[2] for name in EMBEDDED.names() if "qa" in name} == {
            "",
            "low_data",
            *shifted,
        }
        assert EMBEDDED.subtasks("babi_short") == [f"babi_qa{n}_short" for n in (1, 6, 9, 11, 12)]
        assert EMBEDDED.subtasks("babi_all") == [f"babi_qa{n}" for n in range(1, 21)]
        # A task without places has none to shift.
        assert {"babi_qa1_places", "babi_qa16_names"} < set(EMBEDDED.names())
        assert "babi_qa16_places" not in EMBEDDED.names()
        assert set(EMBEDDED.names()) <= set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names())

    # All of one kind are read by the same code: three of the embedded worlds, and what else there is.
    @pytest.mark.parametrize(
        "task", ["babi_qa1", "babi_qa13_longer", "babi_qa9_low_data", "com2sense", "com2sense_100"]
    )
    def test_tasks_load_through_seqio(self, task, vocabulary):
        assert_loads(EMBEDDED, task, vocabulary)

    # Setting up a dataset takes a fifth of a second: of each kind one task, each with one of its splits.
    def test_every_kind_yields_examples(self, vocabulary):
        kinds = {re.sub(r"qa\d+", "qaN", name): name for name in EMBEDDED.names() if EMBEDDED.subtasks(name) == [name]}
        assert len(kinds) == 12
        for name, split in zip([*kinds.values(), "babi_short", "com2sense_low_data"], itertools.cycle(SPLITS)):
            row = next(seqio.get_mixture_or_task(name).get_dataset(None, split, shuffle=False).as_numpy_iterator())
            firsts = {EMBEDDED.examples(task, split)[0].prompt for task in EMBEDDED.subtasks(name)}
            assert vocabulary.decode(row["inputs"].tolist()) in firsts

    def test_a_mixture_holds_its_tasks(self, vocabulary):
        # It goes round for ever and draws the tasks alike: 3,000 draws miss one of 100 examples in 1e-11 of runs.
        dataset = seqio.get_mixture_or_task("babi_low_data").get_dataset(None, "train", shuffle=False, seed=0)
        expected = EMBEDDED.examples("babi_low_data", "train")
        decoded = {vocabulary.decode(row["inputs"].tolist()) for row in dataset.take(3000).as_numpy_iterator()}
        assert decoded == {example.prompt for example in expected}
        assert len(expected) == 20 * 5
        # `examples` has the tasks one after the other, by the names of those that they are the start of.
        assert [f"{example.task}_low_data" for example in expected] == [
            task for task in EMBEDDED.subtasks("babi_low_data") for _ in range(5)
        ]

    def test_low_data_is_drawn_by_its_seed(self):
        drawn = {}
        for seed in (0, 1):
            catalogue = Catalogue(low_data_seed=seed)
            for low, whole, size in (("babi_qa6_low_data", "babi_qa6", 5), ("com2sense_100", "com2sense", 100)):
                for split in ("train", "validation"):
                    rows, all_rows = catalogue.examples(low, split), catalogue.examples(whole, split)
                    assert len(rows) == min(size, len(all_rows))
                    places = [all_rows.index(row) for row in rows]
                    assert places == sorted(set(places))
                assert catalogue.examples(low, "test") == catalogue.examples(whole, "test")
                drawn[low, seed] = catalogue.examples(low, "train")
        assert drawn["babi_qa6_low_data", 0] != drawn["babi_qa6_low_data", 1]
        assert drawn["com2sense_100", 0] != drawn["com2sense_100", 1]
        assert EMBEDDED.examples("babi_qa6_low_data", "train") == drawn["babi_qa6_low_data", 0]

    @hypothesis.given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 3))
    def test_low_data_takes_of_each_family_before_it_takes_twice(self, families, size, seed):
        rows = [
            Example(f"t/train/{f}/{i}", "t", "c", "q", "a", story_id=f"s{f}")
            for f, n in enumerate(families)
            for i in range(n)
        ]
        chosen = sample.low_data(rows, size, seed, "train")
        assert len(chosen) == min(size, len(rows))
        counts = [sum(row.story_id == f"s{f}" for row in chosen) for f in range(len(families))]
        most = max(counts)
        # Who has fewer than the most but one has no more to give.
        assert all(count >= most - 1 or count == n for count, n in zip(counts, families, strict=True))

    @needs_babi
    def test_low_data_of_the_original_babi(self):
        catalogue = Catalogue(babi_dir=BABI_DIR)
        rows = catalogue.examples("babi_low_data", "train")
        assert [row.task for row in rows] == [f"babi_qa{n}" for n in range(1, 21) for _ in range(5)]
        # Questions about one story share their explanations: one of them would answer the others from memory.
        assert len({row.story_id for row in rows}) == 100
        assert {row.story_id for row in rows} & {""} == set()
        assert len(catalogue.examples("babi_all", "test")) == 20_000

    @needs_com2sense
    def test_low_data_of_the_original_com2sense(self):
        rows = Catalogue(com2sense_dir=COM2SENSE_DIR).examples("com2sense_low_data", "train")
        assert len(rows) == 100
        # One statement of a pair: the other would give its answer away.
        assert len({row.family for row in rows}) == 100

    @needs_babi
    @needs_com2sense
    def test_originals_and_back(self, vocabulary):
        catalogue = Catalogue(babi_dir=BABI_DIR, com2sense_dir=COM2SENSE_DIR)
        catalogue.register()
        tasks.register(babi_dir=str(BABI_DIR), com2sense_dir=str(COM2SENSE_DIR))
        original = catalogue.examples("babi_qa1", "train")
        assert original[0].context == "Mary moved to the bathroom. John went to the hallway."
        for task in ("babi_qa1", "babi_qa20", "com2sense"):
            assert_loads(catalogue, task, vocabulary)
        # The demo's own tasks stay what they are.
        assert catalogue.examples("babi_qa1_short", "test") == list(
            generate.read(1, "test", "babi_qa1_short", 500, shifts.SHIFTS["short"])
        )
        tasks.register()
        assert EMBEDDED.names() == catalogue.names()
        assert EMBEDDED.examples("babi_qa1", "train") != original
        assert_loads(EMBEDDED, "babi_qa1", vocabulary)

    def test_another_vocabulary_reads_with_its_own_pieces(self, tmp_path):
        path = tmp_path / "small.model"
        path.write_bytes(vocabularies.train(vocabularies.embedded_texts()[:200], 350))
        tasks.register(vocabulary=path)
        row, example = loaded("babi_qa1", "test")[0], EMBEDDED.examples("babi_qa1", "test")[0]
        own = sentencepiece.SentencePieceProcessor(model_file=str(path))
        assert row["inputs"].tolist() == [*own.encode(example.prompt), 1]
        assert row["inputs"].tolist() != [*vocabularies.load().encode(example.prompt), 1]

    def test_a_missing_vocabulary_leaves_everything_as_it_was(self, tmp_path, vocabulary):
        with pytest.raises(RequestError, match=r"lost\.model: no such file; a SentencePiece model belongs there"):
            tasks.register(vocabulary=tmp_path / "lost.model")
        assert_loads(EMBEDDED, "babi_qa12_low_data", vocabulary)
        assert "babi_short" in seqio.MixtureRegistry.names()

    @pytest.mark.parametrize("content", [lambda _: b"", lambda model: model[:5000], lambda _: b"What is this?"])
    def test_a_file_that_is_no_vocabulary_is_a_wrong_request(self, tmp_path, content):
        path = tmp_path / "bad.model"
        path.write_bytes(content(vocabularies.EMBEDDED.read_bytes()))
        with pytest.raises(RequestError, match=r"bad\.model: not a SentencePiece model") as error:
            tasks.register(vocabulary=path)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["babi_qa21", "babi_qa99", "", "Babi_qa1"])
    def test_an_unknown_name_is_a_wrong_request(self, name):
        for ask in (EMBEDDED.subtasks, lambda task: EMBEDDED.examples(task, "train")):
            with pytest.raises(RequestError, match=re.escape(f"no task or mixture {name!r}; `cd_jax tasks`")):
                ask(name)


def positions(rows):
    """Of each question in its story: how many of the same story come before it in the split."""
    told = collections.Counter()
    found = {}
    for row in rows:
        found[row.example_id] = told[row.story_id] if row.story_id else 0
        told[row.story_id] += 1
    return found


class TestSample:
    """`examples(per_task=)`."""

    def test_of_each_task_of_a_mixture(self):
        rows = EMBEDDED.examples("babi_all", "test", 30)
        assert [row.task for row in rows] == [task for task in EMBEDDED.subtasks("babi_all") for _ in range(30)]

    @pytest.mark.parametrize("size", [1, 7, 50, 100, 333, 995])
    def test_questions_of_all_positions_in_equal_shares(self, size):
        """Of 1,000 with 5 questions a story, every k-th with k a multiple of 5 is the first of its story."""
        whole = EMBEDDED.examples("babi_qa1", "test")
        place = positions(whole)
        assert set(collections.Counter(place.values()).values()) == {200}
        drawn = EMBEDDED.examples("babi_qa1", "test", size, seed=3)
        assert len(drawn) == size
        shares = collections.Counter(place[row.example_id] for row in drawn)
        assert all(abs(shares[position] - size / 5) < 1 for position in range(5))

    @needs_babi
    def test_released_contexts_are_as_long_as_those_of_all(self):
        catalogue = Catalogue(babi_dir=BABI_DIR)

        def sentences(rows):
            return np.array([row.context.count(".") for row in rows])

        whole = sentences(catalogue.examples("babi_qa1", "test"))
        assert whole.mean() == 6.0
        means = [sentences(catalogue.examples("babi_qa1", "test", 50, seed)).mean() for seed in range(40)]
        # Equal shares of the positions leave no variance of the length; every k-th has 2.0.
        assert set(means) == {6.0}

    def test_the_seed_decides(self):
        draws = [EMBEDDED.examples("babi_qa2", "test", 20, seed) for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]
        assert EMBEDDED.examples("babi_qa2", "test", 20) == draws[0]

    def test_the_same_on_every_machine(self):
        """Who asks for the same seed gets the same examples, in later versions, too."""
        drawn = EMBEDDED.examples("babi_qa1", "test", 5, seed=0)
        assert [row.example_id.rpartition("/")[2] for row in drawn] == ["124", "223", "250", "371", "822"]

    def test_every_example_has_the_same_chance(self):
        rows = EMBEDDED.examples("babi_qa1", "test")[:60]
        draws = 3000
        counts = collections.Counter(
            row.example_id for seed in range(draws) for row in sample.Sample(13, seed).of(rows, "test")
        )
        # Twelve rows of each of five positions, drawn without replacement: a binomial bound is wider than it need be.
        chance = 13 / 60
        deviation = (chance * (1 - chance) / draws) ** 0.5
        shares = np.array([counts[row.example_id] / draws for row in rows])
        # One in 60 rows exceeds 4.5 deviations once in 2,000 such tests; the draws are seeded.
        assert np.abs(shares - chance).max() < 4.5 * deviation

    @pytest.mark.parametrize("size", [0, -1])
    def test_a_sample_of_nothing(self, size):
        with pytest.raises(RequestError, match=f"a sample of {size} examples a task is none; bind 1 or more"):
            EMBEDDED.examples("babi_qa1", "test", size)

    def test_pairs_stay_together(self):
        rows = EMBEDDED.examples("com2sense", "test", 10)
        assert len(rows) == 10
        assert all(one.pair_id == other.pair_id for one, other in zip(rows[::2], rows[1::2], strict=True))
        assert [row.answer for row in rows].count("yes") == 5

    def test_all_where_more_are_asked_for(self):
        for size in (50, 51, 10**6, None):
            assert EMBEDDED.examples("com2sense", "test", size) == EMBEDDED.examples("com2sense", "test")

    @needs_com2sense
    @pytest.mark.parametrize("size", [1, 2, 3, 50, 100, 500, 700, 779])
    def test_the_original_dev_with_its_lost_partners(self, size):
        catalogue = Catalogue(com2sense_dir=COM2SENSE_DIR)
        assert_sample(catalogue.examples("com2sense", "test"), catalogue.examples("com2sense", "test", size), size)

    @hypothesis.given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 60))
    def test_at_most_so_many_in_order_with_pairs_whole(self, paired, size):
        rows = [
            Example(f"t/test/{i}{letter}", "t", "c", "q", "a", pair_id=f"p{i}" if pair else "")
            for i, pair in enumerate(paired)
            for letter in ("ab" if pair else "a")
        ]
        assert_sample(rows, sample.Sample(size).of(rows, "test"), size)

    @hypothesis.given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.data())
    def test_a_smaller_sample_is_part_of_a_larger_one(self, stories, data):
        rows = [
            Example(f"t/test/{i}/{j}", "t", "c", "q", "a", story_id=f"s{i}")
            for i, questions in enumerate(stories)
            for j in range(questions)
        ]
        sizes = sorted(data.draw(st.lists(st.integers(1, len(rows)), min_size=2, max_size=2)))
        small, large = ({row.example_id for row in sample.Sample(size).of(rows, "test")} for size in sizes)
        assert small <= large and [len(small), len(large)] == sizes
        place = positions(rows)
        share = collections.Counter(place.values())
        for position, count in collections.Counter(place[name] for name in small).items():
            assert abs(count - sizes[0] * share[position] / len(rows)) < 2


def assert_sample(rows, chosen, size):
    places = [rows.index(row) for row in chosen]
    assert places == sorted(set(places))
    for one in chosen:
        partners = [row for row in rows if row.pair_id and row.pair_id == one.pair_id]
        assert all(partner in chosen for partner in partners)
    if size >= len(rows):
        assert chosen == rows
    else:
        # A pair is not parted: who asks for one example can get two, who asks for an odd number one less.
        assert 0 < len(chosen) <= max(size, 2)
        assert len(chosen) >= size - 1


class TestVocabulary:
    def test_the_shipped_one_is_trained_on_the_embedded_texts(self):
        shipped = pathlib.Path(vocabularies.EMBEDDED).read_bytes()
        assert vocabularies.train(vocabularies.embedded_texts(), 4000) == shipped

    def test_ids_are_those_of_t5(self, vocabulary):
        assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
        assert vocabulary.bos_id in (-1, None)

    def test_the_embedding_has_a_row_for_every_piece(self, vocabulary):
        assert vocabulary.vocab_size <= vocabularies.padded_size(vocabulary) < vocabulary.vocab_size + 128
        assert vocabularies.padded_size(vocabulary) % 128 == 0

    @hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
    @hypothesis.given(st.lists(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1), max_size=8))
    def test_decodes_what_it_encodes(self, vocabulary, words):
        text = " ".join(words)
        tokens = vocabulary.encode(text)
        assert vocabulary.decode(tokens) == text
        assert vocabulary.unk_id not in tokens
        assert vocabulary.decode_tf(vocabulary.encode_tf(text)).numpy().decode() == text

    @pytest.mark.parametrize("text", ["Ærøskøbing naïve", "东京 こんにちは", "🦜 zebra", "ѣ"])
    def test_falls_back_to_bytes(self, vocabulary, text):
        tokens = vocabulary.encode(text)
        assert vocabulary.decode(tokens) == text
        assert vocabulary.unk_id not in tokens

    def test_words_of_the_embedded_worlds_are_single_tokens(self, vocabulary):
        rows = [row for number in WORLDS for row in generate.read(number, "test", "babi", 300)]
        text = " ".join(f"{row.prompt} answer: {row.answer}" for row in rows)
        words = set(re.findall(r"\w+", text))
        assert len(words) > 40
        # Within a sentence, where a blank stands before every word.
        split = {word: pieces for word in words if len(pieces := vocabulary.encode(word)) > 1}
        assert split == {}

    def test_ordinals_are_single_tokens(self, vocabulary):
        assert [len(vocabulary.encode(f"{i}:")) for i in range(1, 10)] == [1] * 9


def test_embedded_texts_are_of_train_alone():
    """The vocabulary must not have read what is asked."""
    seen = set(vocabularies.embedded_texts())
    for split in ("validation", "test"):
        for row in [*generate.read(1, split, "babi", 100), *pairs.read(split, "com2sense")]:
            assert f"{row.prompt} answer: {row.answer}" not in seen
