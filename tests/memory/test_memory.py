"""The episodic memory: its axes, its entries and how they leave it, its files. What it finds: test_retrieval.py."""

import collections
import dataclasses
import itertools
import json

import hypothesis
import jax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import strategies as st
from memories import entries_of, filled, mesh_of, normal

from cd_jax.errors import RequestError
from cd_jax.memory import episodic, queries, values
from cd_jax.memory.entries import Entry, Owners, read_lines
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.types import Example, Update


def read_entries(directory):
    return [line.entry for line in read_lines(directory)]


class TestQueries:
    def test_axes_are_the_eigenvectors_of_the_covariance(self):
        # Variances 1, 4, 9 … along hidden axes, so that no two are near each other.
        rotation, _ = np.linalg.qr(normal(8, 8, seed=3))
        keys = (normal(2000, 8) * np.arange(1, 9) @ rotation + 5).astype(np.float32)
        mean, axes = queries.principal_axes(keys, 5)
        _, vectors = np.linalg.eigh(np.cov(keys.astype(np.float64), rowvar=False))
        expected = vectors.T[::-1][:5]
        expected *= np.sign(expected[np.arange(5), np.abs(expected).argmax(-1)])[:, None]
        np.testing.assert_allclose(mean, keys.mean(0, dtype=np.float64), atol=1e-4)
        np.testing.assert_allclose(axes, expected, atol=1e-3)
        assert (np.asarray(axes)[np.arange(5), np.abs(axes).argmax(-1)] > 0).all()

    def test_axes_past_the_size_of_a_covariance_are_the_same(self):
        rotation, _ = np.linalg.qr(normal(64, 64, seed=3))
        # Variances that fall slowly: the ratio of neighbours is 0.81.
        keys = (normal(500, 64) * 0.9 ** np.arange(64) @ rotation + 5).astype(np.float32)
        mean, axes = queries.principal_axes(keys, 4)
        same, randomised = queries.principal_axes(keys, 4, most_dimensions=32)
        np.testing.assert_array_equal(mean, same)
        # What power iterations leave of the 15th direction in the fourth: (0.81 ** 11) ** 4 in amplitude, 1e-4.
        np.testing.assert_allclose(axes, randomised, atol=1e-3)

    @pytest.mark.parametrize("most_dimensions", [4, 4096])
    def test_rows_that_hold_no_key_do_not_count(self, most_dimensions):
        keys, rubbish = normal(50, 8) * np.arange(1, 9, dtype=np.float32), 100 * normal(30, 8, seed=1)
        rows = np.concatenate([keys, rubbish])[np.random.default_rng(2).permutation(80)]
        valid = np.isin(rows[:, 0], keys[:, 0])
        alone = queries.principal_axes(keys, 3, most_dimensions=most_dimensions)
        among = queries.principal_axes(rows, 3, valid, most_dimensions=most_dimensions)
        for expected, found in zip(alone, among, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_axes_where_there_are_fewer_keys_than_dimensions(self):
        keys = normal(4, 16)
        _, axes = queries.principal_axes(keys, 3)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-5)
        # The four keys lie in the space that mean and axes span.
        centred = keys - keys.mean(0)
        np.testing.assert_allclose(centred @ axes.T @ axes, centred, atol=1e-4)

    def test_a_projection_shares_the_coordinate_and_is_typical_otherwise(self):
        keys, embeddings = normal(200, 8) + 3, normal(20, 8, seed=1) * 2
        mean, axes = queries.principal_axes(keys, 4)
        found = np.asarray(queries.candidate_queries(embeddings, mean, axes))
        mean, axes = np.asarray(mean, np.float64), np.asarray(axes, np.float64)
        assert found.shape == (20, 5, 8)
        np.testing.assert_array_equal(found[:, 0], embeddings)
        for axis in range(4):
            for row in range(20):
                off = found[row, 1 + axis] - mean
                coordinate = axes[axis] @ (embeddings[row] - mean)
                np.testing.assert_allclose(off, coordinate * axes[axis], atol=1e-4)
                assert axes[axis] @ off == pytest.approx(coordinate, abs=1e-4)


class TestRows:
    def test_rows_fill_up_and_are_freed(self):
        memory = EpisodicMemory(capacity=5)
        assert memory.add(entries_of([1, 1, 1])).tolist() == [0, 1, 2]
        memory.remove([1])
        memory.remove([1, 4])
        assert memory.rows().tolist() == [0, 2]
        assert memory.prompts() == ["prompt 0", "", "prompt 2", "", ""]
        rows = memory.add([Entry("x", "p", "u"), Entry("y", "p", "u2")])
        assert rows.tolist() == [1, 3] and rows.dtype == np.int32
        assert memory.entries[1] == Entry("x", "p", "u") and memory.entries[4] is None
        assert memory.added.tolist() == [0, 3, 2, 4, 0]

    def test_identical_memories_are_stored_once(self):
        """The first one's provenance stays; the others' ids stand in `also`."""
        memory = EpisodicMemory(capacity=9)
        first = Entry("a", "p", "u", teacher="oracle", sample=1)
        rows = memory.add([first, Entry("a", "p", "u", sample=2), Entry("b", "p", "u"), Entry("c", "other", "u")])
        assert rows.tolist() == [0, 0, 0, 1]
        assert memory.add([Entry("d", "p", "u", family="g"), Entry("b", "p", "u")]).tolist() == [0, 0]
        kept = memory.entries[0]
        assert (kept.also, kept.other_owners) == (("b", "d"), ("b", "g"))
        assert (kept.example_id, kept.teacher, kept.sample) == ("a", "oracle", 1)
        assert memory.rows().tolist() == [0, 1]

    def test_owners_of_one_memory_are_one(self):
        memory = EpisodicMemory(capacity=9)
        memory.add(entries_of([1] * 100)[:9])
        memory.add([Entry("e1", "prompt 7", "update 7/0"), Entry("new", "prompt 1", "update 1/0")])
        one, seven, new, two, stranger = memory.owner_ids(["e1", "e7", "new", "e2", "x"]).tolist()
        assert one == seven == new != two and stranger == -1
        memory.add([Entry("e2", "prompt 7", "update 7/0")])
        assert len(set(memory.owner_ids(["e1", "e7", "new", "e2"]).tolist())) == 1
        open_memory = EpisodicMemory(capacity=9, leave_out_own=False)
        open_memory.add(entries_of([1] * 3))
        assert open_memory.owner_ids(["e0", "x"]).tolist() == [-1, -1]

    def test_who_has_the_same_prompt_is_shown_nothing_of_it(self):
        """Also where another explanation is stored, or none of its own."""
        memory = filled([Entry("a", "same", "u"), Entry("b", "same", "v"), Entry("c", "other", "u")])
        memory.introduce([Example(name, "t", "same", "", "y") for name in ("a", "b", "d")] + EXAMPLES[:1])
        a, b, c, d, stranger = memory.owner_ids(["a", "b", "c", "d", EXAMPLES[0].example_id]).tolist()
        assert a == b == d != c and stranger == -1
        memory.write(normal(3, 4))
        assert memory.retrieve(normal(1, 4), ["d"]).rows.tolist() == [[2, -1]]

    @hypothesis.given(st.lists(st.lists(st.integers(0, 150), min_size=1, max_size=3), max_size=60))
    def test_groups_of_owners(self, joins):
        """Against their graph's connected components."""
        owners = Owners()
        for names in joins:
            owners.join([str(name) for name in names])
        edges = [(a, b) for names in joins for a, b in itertools.pairwise(names)]
        graph = scipy.sparse.coo_array(
            (np.ones(len(edges)), (np.array([e[0] for e in edges], int), np.array([e[1] for e in edges], int))),
            (151, 151),
        )
        _, expected = scipy.sparse.csgraph.connected_components(graph, directed=False)
        known = sorted({name for names in joins for name in names})
        groups = owners.groups_of([str(name) for name in known])
        assert (groups[:, None] == groups[None]).tolist() == (
            expected[known][:, None] == expected[known][None]
        ).tolist()
        assert owners.groups_of(["unheard of"]).tolist() == [-1]

    def test_neighbours_asked_for(self):
        """Enough for one to be left, and seldom another number."""
        counts = []
        for most in range(1, 10):
            memory = filled(entries_of([most, 1, 2]), capacity=16, num_queries=3)
            counts.append(memory.count)
        assert counts == [5, 5, 7, 7, 11, 11, 11, 11, 16]
        assert filled(entries_of([9]), capacity=16, num_queries=3, leave_out_own=False).count == 3

    @pytest.mark.parametrize(
        ("bindings", "message"),
        [
            ({"num_axes": 1, "num_queries": 3}, "num_axes=1 gives fewer queries than num_queries=3; bind it higher"),
            ({"num_queries": 0}, "num_queries=0 retrieves nothing; bind 1 or more"),
            ({"capacity": 0}, "capacity=0 has no room for an update; bind 1 or more"),
            ({"evict": "newest"}, "evict='newest' is none of oldest, least_used, lowest_score; bind one of them"),
            ({"train_retrieval": True}, "train_retrieval=True is none of random, fixed, off; bind one of them"),
        ],
    )
    def test_wrong_bindings(self, bindings, message):
        with pytest.raises(RequestError) as error:
            EpisodicMemory(**bindings)
        assert str(error.value).splitlines()[0] == f"EpisodicMemory.{message}"

    @pytest.mark.parametrize("mesh", [None, (8,)])
    def test_uses_are_counted(self, mesh):
        memory = filled(entries_of([1] * 4), capacity=6, mesh=mesh_of(*mesh) if mesh else None)
        for rows in ([[0, 3], [3, -1]], [[1, 3], [-1, -1]]):
            memory.count_use(np.array(rows, np.int32))
        assert memory.used.tolist() == [1, 1, 0, 3, 0, 0] and memory.used.dtype == np.int32
        memory.remove([3])
        assert memory.add([Entry("x", "p", "u")]).tolist() == [3]
        assert memory.used.tolist() == [1, 1, 0, 0, 0, 0]


@dataclasses.dataclass
class _Held:
    entry: Entry
    number: int
    used: int = 0


class _Model:
    """`EpisodicMemory` as a plain list."""

    def __init__(self, capacity, evict):
        self.capacity, self.evict, self.held, self.number = capacity, evict, [], 0

    def _drop_worst(self, held):
        def worth(one):
            score = float("-inf") if one.entry.score is None else one.entry.score
            return {"oldest": 0, "least_used": one.used, "lowest_score": score}[self.evict], one.number

        held.remove(min(held, key=worth))

    def add(self, entries):
        new = []
        for entry in entries:
            known = [one for one in self.held + new if one.entry.content == entry.content]
            if known:
                known[0].entry = known[0].entry.met_again(entry)
            else:
                new.append(_Held(entry, self.number))
                self.number += 1
        while len(new) > self.capacity:
            self._drop_worst(new)
        while len(self.held) + len(new) > self.capacity:
            self._drop_worst(self.held)
        self.held += new


SCORES = st.sampled_from([None, 0.0, 0.25, 1.0])
ADDITIONS = st.lists(st.tuples(st.integers(0, 12), SCORES), max_size=9).map(
    lambda drawn: [Entry(f"e{i}", "p", f"u{text}", score=score) for i, (text, score) in enumerate(drawn)]
)
TURNS = st.lists(st.tuples(ADDITIONS, st.sets(st.integers(0, 5)), st.lists(st.integers(-1, 5), min_size=4, max_size=4)))


class TestEviction:
    @pytest.mark.parametrize("evict", episodic.EVICT)
    @hypothesis.settings(max_examples=60)
    @hypothesis.given(st.integers(1, 6), TURNS)
    def test_equals_a_plain_list(self, evict, capacity, turns):
        memory, model = EpisodicMemory(capacity=capacity, evict=evict), _Model(capacity, evict)
        for entries, removed, uses in turns:
            rows = memory.add(entries)
            model.add(entries)
            for entry, row in zip(entries, rows, strict=True):
                assert (row < 0) == all(one.entry.content != entry.content for one in model.held)
                assert row < 0 or memory.entries[row].content == entry.content
            removed = [row for row in removed if row < capacity]
            gone = [memory.entries[row] for row in removed]
            memory.remove(removed)
            model.held = [one for one in model.held if one.entry not in gone]
            used = np.array([row if row < capacity and memory.entries[row] else -1 for row in uses], np.int32)
            memory.count_use(used)
            for row in used[used >= 0]:
                next(one for one in model.held if one.entry == memory.entries[row]).used += 1
            held = [(memory.entries[row], memory.used[row], memory.added[row]) for row in memory.rows()]
            expected = [(one.entry, one.used, one.number) for one in model.held]
            assert sorted(held, key=lambda one: one[2]) == sorted(expected, key=lambda one: one[2])


EXAMPLES = [Example(f"t/train/{i}", "t", f"context {i}.", "q?", "a") for i in range(40)]


def updates_of(counts):
    return {
        example.example_id: [
            Update(example.example_id, "t", f"u{i}/{sample}", "oracle", "p", sample, 0) for sample in range(count)
        ]
        for i, (example, count) in enumerate(zip(EXAMPLES, counts, strict=False))
    }


class TestChooseEntries:
    @hypothesis.given(
        st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 130), st.integers(0, 2**32 - 1)
    )
    def test_first_updates_first_and_no_more_than_fit(self, counts, capacity, seed):
        examples = EXAMPLES[: len(counts)]
        chosen = values.choose_entries(examples, updates_of(counts), capacity, seed)
        assert len(chosen) == min(capacity, sum(counts))
        assert len(set(chosen)) == len(chosen)
        samples = [int(entry.update.split("/")[1]) for entry in chosen]
        assert samples == sorted(samples)
        by_id = {example.example_id: example for example in examples}
        for entry in chosen:
            assert entry.prompt == by_id[entry.example_id].prompt
            assert entry.update.startswith(f"u{entry.example_id.split('/')[-1]}/")
        # Of the last round only some have room; of all before it everything is there.
        for sample in range(max(samples, default=0)):
            assert samples.count(sample) == sum(count > sample for count in counts)

    def test_the_seed_decides(self):
        updates = updates_of([2] * 40)
        chosen = [values.choose_entries(EXAMPLES, updates, 20, seed) for seed in (0, 0, 1)]
        assert chosen[0] == chosen[1] != chosen[2]

    def test_where_they_come_from_is_kept(self):
        example = Example("a", "babi_qa1", "context.", "q?", "kitchen", story_id="story")
        update = Update("a", "babi_qa1", "because", "oracle", "why", sample=3, seed=0, score=0.5)
        (entry,) = values.choose_entries([example], {"a": [update]}, 9, 0)
        assert entry == Entry(
            "a",
            "context. q?",
            "because",
            "story",
            task="babi_qa1",
            answer="kitchen",
            teacher="oracle",
            sample=3,
            score=0.5,
        )
        assert entry.owner == "story"

    def test_identical_ones_take_no_room(self):
        """But are there, for their owners' sake."""
        examples = [Example(str(i), "t", "same", "q?", "a") for i in range(3)] + EXAMPLES[:3]
        updates = {example.example_id: [Update(example.example_id, "t", "u", "o", "p", 0, 0)] for example in examples}
        for seed in range(9):
            chosen = values.choose_entries(examples, updates, 4, seed)
            assert len({entry.content for entry in chosen}) == 4
            assert len(filled(chosen, capacity=4).rows()) == 4

    def test_nothing_known_nothing_kept(self):
        assert values.choose_entries(EXAMPLES, {}, 10, 0) == []

    def test_every_example_has_the_same_chance(self):
        updates = updates_of([1] * 40)
        drawn = collections.Counter(
            entry.example_id for seed in range(1000) for entry in values.choose_entries(EXAMPLES, updates, 10, seed)
        )
        # 250 each with a deviation of sqrt(1000 * 1/4 * 3/4) = 13.7; of 40 one is 5 off in 2e-5 of draws.
        assert max(abs(drawn[example.example_id] - 250) for example in EXAMPLES) < 5 * 13.7


TEXTS = st.text()
ENTRIES = st.builds(
    Entry,
    example_id=TEXTS,
    prompt=TEXTS,
    update=TEXTS,
    family=TEXTS,
    teacher=TEXTS,
    sample=st.integers(0, 9),
    score=st.none() | st.floats(0, 1),
)


class TestFiles:
    @hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
    @hypothesis.given(st.lists(ENTRIES, min_size=1, max_size=5))
    @hypothesis.example([Entry("é", "line\u2028separator\x85", "\n\r\x1c tab\t"), Entry("b", "\ud800", "🦜")])
    def test_save_and_load(self, tmp_path, entries):
        """With where the entries come from, and what was counted."""
        memory = EpisodicMemory(capacity=12)
        memory.add([*entries, *entries_of([1, 1, 1])])
        memory.remove([1])
        memory.add([Entry("late", "late", "late")])
        memory.count_use(np.array([0, 0, 2], np.int32))
        memory.save(tmp_path / "deep" / "memory")
        loaded = EpisodicMemory.load(tmp_path / "deep" / "memory", capacity=14)
        rows = memory.rows()
        held = [memory.entries[row] for row in rows]
        assert read_entries(tmp_path / "deep" / "memory") == held
        assert loaded.entries == held + [None] * (14 - len(held))
        for name in ("used", "added"):
            np.testing.assert_array_equal(getattr(loaded, name)[: len(rows)], getattr(memory, name)[rows])
        owners = [entry.owner for entry in held] + ["nobody's"]
        ids, others = memory.owner_ids(owners), loaded.owner_ids(owners)
        assert ((ids[:, None] == ids[None]) == (others[:, None] == others[None])).all()
        assert loaded.add([Entry("x", "x", "x")]) == len(rows) and loaded.added[len(rows)] == memory.added.max() + 1

    def test_no_keys_are_kept(self, tmp_path):
        """They go with the parameters. What an older version has left of them is not looked at."""
        (tmp_path / "keys.npy").write_bytes(b"no keys")
        memory = filled(entries_of([2, 1]))
        memory.write(normal(3, 4))
        memory.save(tmp_path)
        loaded = EpisodicMemory.load(tmp_path, capacity=3)
        assert loaded.entries == memory.entries and loaded.keys is None
        assert sorted(path.name for path in tmp_path.iterdir()) == ["entries.jsonl", "keys.npy"]
        loaded.write(normal(3, 4))
        found = [one.retrieve(normal(5, 4, seed=1), ["x"] * 5, jax.random.key(0)) for one in (memory, loaded)]
        np.testing.assert_array_equal(found[0].rows, found[1].rows)

    def test_no_room_for_what_was_saved(self, tmp_path):
        filled(entries_of([2, 1])).save(tmp_path)
        with pytest.raises(
            RequestError, match=r"EpisodicMemory\.capacity=2 has no room for the 3 updates of .*; bind it"
        ):
            EpisodicMemory.load(tmp_path, capacity=2)

    def test_lines_of_before(self, tmp_path):
        """They had four fields."""
        (tmp_path / "entries.jsonl").write_text('{"example_id": "a", "prompt": "p", "update": "u", "family": "f"}\n')
        assert read_entries(tmp_path) == [Entry("a", "p", "u", "f")]

    GOOD = json.dumps({"example_id": "a", "prompt": "b", "update": "c"}).encode()

    @pytest.mark.parametrize(
        "line",
        [
            b"{",
            b'{"example_id": "a", "prompt": "b", "update": "c", "used": -1}',
            b"[]",
            b"null",
            b'"text"',
            b'{"example_id": "a", "prompt": "b"}',
            b'{"example_id": "a", "prompt": "b", "update": "c", "more": 1}',
            b'{"example_id": 1, "prompt": "b", "update": "c"}',
            b'{"example_id": "a", "prompt": null, "update": "c"}',
            b'{"example_id": "a", "prompt": "\xff", "update": "c"}',
            b'{"example_id": "a", "prompt": "b", "update": "c", "score": "0.5"}',
            b'{"example_id": "a", "prompt": "b", "update": "c", "sample": true}',
            b'{"example_id": "a", "prompt": "b", "update": "c", "used": 0.5}',
            b'{"example_id": "a", "prompt": "b", "update": "c", "also": "d"}',
            b'{"example_id": "a", "prompt": "b", "update": "c", "also": ["d", 1]}',
            b'{"example_id": "a", "prompt": "b", "update": ["c"]}',
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path, line):
        path = tmp_path / "entries.jsonl"
        path.write_bytes(b"\n".join([self.GOOD, line, self.GOOD]) + b"\n")
        with pytest.raises(RequestError) as error:
            read_entries(tmp_path)
        assert str(error.value).startswith(f"{path}:2: not an entry of a memory (")
        assert "\n" not in str(error.value)

    def test_an_entry_that_stands_there_twice_is_named(self, tmp_path):
        path = tmp_path / "entries.jsonl"
        path.write_bytes(self.GOOD + b"\n" + self.GOOD + b"\n")
        with pytest.raises(RequestError, match=rf"^{path}:2: not an entry of a memory \(the same prompt and update"):
            read_entries(tmp_path)

    def test_an_empty_memory(self, tmp_path):
        EpisodicMemory(capacity=3).save(tmp_path)
        assert EpisodicMemory.load(tmp_path, capacity=3).entries == [None] * 3

    def test_a_missing_memory(self, tmp_path):
        with pytest.raises(RequestError, match=r"entries\.jsonl: no such file; `cd_jax train` writes it"):
            read_entries(tmp_path)
