"""`updates.jsonl`: what is written is read again, whatever a teacher says, and whatever cuts the file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import updates as updates_file
from cd_jax.types import Update

UPDATES = st.lists(
    st.builds(
        Update,
        *[st.text(st.characters())] * 2,
        st.text(st.characters()).filter(str.strip),
        *[st.text(st.characters())] * 2,
        sample=st.integers(0, 9),
        seed=st.integers(),
        score=st.none() | st.floats(0, 1),
        reason=st.sampled_from(["", "length"]),
    ),
    max_size=10,
    unique_by=lambda update: (update.example_id, update.sample),
)


def _update(number=0, text="because"):
    return Update(f"t/train/{number}", "t", text, "oracle", "because", 0, 0, 0.5)


class TestUpdates:
    @given(updates=UPDATES, cut=st.integers(0, 10))
    def test_round_trip(self, tmp_path_factory, updates, cut):
        first, second = updates[:cut], updates[cut:]
        path = tmp_path_factory.mktemp("store") / "model_dir" / "updates.jsonl"
        updates_file.append(path, first)
        updates_file.append(path, second)
        assert updates_file.read(path) == first + second
        grouped = updates_file.read_grouped(path)
        assert sorted(map(repr, sum(grouped.values(), []))) == sorted(map(repr, first + second))
        assert all(update.example_id == key for key, group in grouped.items() for update in group)

    def test_fields_stand_in_the_order_of_the_contract(self, tmp_path):
        updates_file.append(tmp_path / "u.jsonl", [_update()])
        record = json.loads((tmp_path / "u.jsonl").read_text())
        assert list(record) == ["example_id", "task", "update", "teacher", "prompt", "sample", "seed", "score"]

    def test_every_cut_is_survived(self, tmp_path):
        path = tmp_path / "u.jsonl"
        updates_file.append(path, [_update(0), _update(1)])
        whole = path.read_bytes()
        first = whole.index(b"\n") + 1
        for cut in range(first, len(whole)):
            path.write_bytes(whole[:cut])
            kept = [_update(0)] + [_update(1)] * (cut == len(whole) - 1)
            assert updates_file.read(path) == kept
            updates_file.append(path, [_update(2)])
            assert updates_file.read(path) == [*kept, _update(2)]

    def test_repair(self, tmp_path):
        path = tmp_path / "u.jsonl"
        assert updates_file.repair(path) == 0 and not path.exists()
        path.write_bytes(b'{"exa')
        assert updates_file.repair(path) == 5
        assert path.read_bytes() == b""
        assert updates_file.repair(path) == 0

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            (b'{"example_id": "a', "at column"),
            (b"[1]", "not a JSON object"),
            (b"{}", "missing required field `example_id`"),
            (json.dumps(vars(_update()) | {"sample": True}).encode(), "Expected `int`, got `bool` - at `$.sample`"),
            (json.dumps(vars(_update()) | {"score": "high"}).encode(), "got `str` - at `$.score`"),
            (json.dumps(vars(_update(1)) | {"sample": -1}).encode(), "Expected `int` >= 0 - at `$.sample`"),
            (json.dumps(vars(_update(1)) | {"score": 1.5}).encode(), "<= 1.0 - at `$.score`"),
            (json.dumps(vars(_update(1)) | {"score": float("nan")}).encode(), "NaN is no number"),
            (json.dumps(vars(_update(1)) | {"update": " "}).encode(), "`update` is empty"),
            (b'{"example_id": "a", "update": "b", "update": "c"}', "'update' stands twice"),
            (json.dumps(vars(_update())).encode(), "sample 0 of t/train/0 stands in a line before"),
            (b'"\xff"', "not UTF-8"),
            (b"[" * 10**5, "nested too deep"),
            (b"9" * 5000, "4300 digits"),
        ],
    )
    def test_malformed_line_is_named(self, tmp_path, line, what):
        path = tmp_path / "u.jsonl"
        updates_file.append(path, [_update()])
        path.write_bytes(path.read_bytes() + line + b"\n" + json.dumps(vars(_update(2))).encode() + b"\n")
        with pytest.raises(RequestError) as caught:
            updates_file.read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}:2: ") and what in message and "mend or delete" in message
        assert "\n" not in message

    def test_missing_file_and_unwritable_folder(self, tmp_path):
        with pytest.raises(RequestError, match="cd_jax distill"):
            updates_file.read(tmp_path / "none.jsonl")
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot be written"):
            updates_file.append(tmp_path / "file" / "u.jsonl", [_update()])

    def test_fields_that_are_missing_or_unknown(self, tmp_path):
        """Somebody else's file; its samples are counted."""
        path = tmp_path / "u.jsonl"
        lines = [{"example_id": "a", "update": "so"}, {"example_id": "a", "update": "thus", "kind": "fine"}]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert updates_file.read(path) == [Update("a", "", said, "", "", n, 0) for n, said in enumerate(("so", "thus"))]

    def test_a_whole_last_line_that_is_no_update_is_not_lost(self, tmp_path):
        """No kill leaves it: it lacks its newline alone."""
        path = tmp_path / "u.jsonl"
        path.write_text('{"example_id": "a", "text": "so"}')
        with pytest.raises(RequestError, match=rf"^{path}:1: not an update"):
            updates_file.read(path)
        assert updates_file.repair(path) == 0 and path.read_text() == '{"example_id": "a", "text": "so"}\n'
