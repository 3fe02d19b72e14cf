"""JSON lines: one strict reader, one tolerant one, and writers that a kill does no harm."""

import dataclasses
import json
import math

import msgspec
import objects
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import attempts, files, journal, lock, metrics, results
from cd_jax.rundir import updates as updates_file
from cd_jax.types import Attempt, Example, Update

RECORDS = st.lists(st.dictionaries(st.text(st.characters()), st.text(st.characters()) | st.integers() | st.none()))


@dataclasses.dataclass(frozen=True)
class Measured:
    name: str
    share: journal.Share = 0.0
    count: journal.Count = 0


def read(path, kind=Measured):
    return journal.read(path, kind, lambda record: record, "a measure", "mend it")


class TestRead:
    @given(RECORDS)
    def test_what_was_written(self, tmp_path_factory, records):
        path = tmp_path_factory.mktemp("journal") / "deep" / "a.jsonl"
        journal.write(path, records)
        assert read(path, dict) == records == journal.read_tolerantly(path).records
        assert path.read_bytes().isascii() and path.read_bytes().count(b"\n") == len(records)
        journal.append(path, records)
        assert read(path, dict) == 2 * records

    def test_line_ends(self, tmp_path):
        path = tmp_path / "a.jsonl"
        # Neither a carriage return nor one of Unicode's line ends is the end of a line.
        path.write_bytes('{"name": "x\u2028y"}\r\n\n{"name": "2", "more": 1}'.encode())
        assert read(path) == [Measured("x\u2028y"), Measured("2")]

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            (b"[]", "not a JSON object"),
            (b"{}", "missing required field `name`"),
            (b'{"name": 1}', "Expected `str`, got `int` - at `$.name`"),
            (b'{"name": "a", "count": -1}', "Expected `int` >= 0 - at `$.count`"),
            (b'{"name": "a", "count": 2147483648}', "<= 2147483647 - at `$.count`"),
            (b'{"name": "a", "count": true}', "Expected `int`, got `bool` - at `$.count`"),
            (b'{"name": "a", "count": 1.0}', "Expected `int`, got `float` - at `$.count`"),
            (b'{"name": "a", "share": 1.5}', "<= 1.0 - at `$.share`"),
            (b'{"name": "a", "share": ' + b"9" * 400 + b"}", "out of range - at `$.share`"),
            (b'{"name": "a", "share": NaN}', "NaN is no number"),
            (b'{"name": "a", "name": "b"}', "'name' stands twice in an object"),
            (b'{"name": "a", "more": {"b": 1, "b": 2}}', "'b' stands twice in an object"),
            (b'{"name": "a", "more": ' + b"9" * 5000 + b"}", "4300 digits"),
            (b'{"name": "a", "\\ud800": 1}', "surrogates not allowed"),
            (b"\xff", "not UTF-8"),
            (b"{", "not JSON"),
            (b'{"a":' * 10**5, "nested too deep"),
            (b'{"name": ' + b"[" * 900 + b"]" * 900 + b"}", "got `array`"),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path, line, what):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"name": "a"}\n' + line + b"\n")
        with pytest.raises(RequestError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}:2: not a measure (") and what in message and message.endswith("); mend it")
        assert len(message.splitlines()) == 1 and len(message) < len(str(path)) + 250

    @pytest.mark.parametrize("line", [b'{"b": 1}', b'{"a": "x"}', b'{"a": -1}'])
    def test_so_is_one_of_which_nothing_can_be_made(self, tmp_path, line):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"a": 1}\n' + line)
        with pytest.raises(RequestError, match=rf"^{path}:2: not a square \(.*\); mend it$"):
            journal.read(path, dict, lambda found: math.sqrt(found["a"]), "a square", "mend it")

    @pytest.mark.parametrize("name", ["missing", "folder", "nul\0"])
    def test_no_file(self, tmp_path, name):
        (tmp_path / "folder").mkdir()
        with pytest.raises(RequestError, match="; mend it$"):
            read(tmp_path / name)
        with pytest.raises(RequestError, match="; write it$"):
            journal.read(tmp_path / name, dict, len, "a line", "mend it", absent="write it")

    def test_a_cut_line_is_told_where_it_may_be(self, tmp_path, capsys):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"name": "a"}\n{"name": "')
        with pytest.raises(RequestError, match=rf"^{path}:2: "):
            read(path)
        assert journal.read(path, Measured, lambda found: found.name, "a measure", "mend it", cut=True) == ["a"]
        assert capsys.readouterr().err == f"cd_jax: {path}:2: the last line is cut and is left out\n"

    def test_tolerantly(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"name": "a"}\n\n{"na{"name": "b"}\n{"name": 1}\n{"name": "c", "count": 2}\n{"name": "\xc3')
        assert journal.read_tolerantly(path, Measured) == ([Measured("a"), Measured("c", count=2)], 3)
        assert journal.read_tolerantly(path).skipped == 2


class TestAppend:
    def test_every_cut_is_survived(self, tmp_path, capsys):
        path = tmp_path / "a.jsonl"
        journal.append(path, [{"name": "é"}, {"name": "b"}])
        whole = path.read_bytes()
        first = whole.index(b"\n") + 1
        for cut in range(first, len(whole)):
            path.write_bytes(whole[:cut])
            journal.append(path, [{"name": "c"}])
            kept = [Measured("é")] + [Measured("b")] * (cut == len(whole) - 1)
            assert read(path) == [*kept, Measured("c")]
        assert capsys.readouterr().err.count("cut last line of 1 bytes is dropped") == 1

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match=r"file/a\.jsonl: cannot be written \(.*\); free some space"):
            journal.append(tmp_path / "file" / "a.jsonl", [{}])

    def test_what_is_no_json_leaves_the_file_alone(self, tmp_path):
        path = tmp_path / "a.jsonl"
        journal.write(path, [{"name": "a"}])
        for write in (journal.write, journal.append):
            with pytest.raises(TypeError):
                write(path, [{"name": "b"}, {"name": object()}])
        assert read(path) == [Measured("a")]


class TestAttempts:
    @staticmethod
    def write(path, *lines):
        names = ("example_id", "sample", "correct", "generation")
        journal.write(path, [dict(zip(names, line, strict=True)) for line in lines])
        return path

    def test_all_samples_are_read_in_the_order_of_the_file(self, tmp_path):
        said = self.write(
            tmp_path / "said.jsonl",
            *(("a", 0, True, "r0"), ("b", 0, True, "r0"), ("a", 1, False, "w1"), ("a", 2, False, "w2")),
            *(("b", 1, None, "u1"), ("c", 3, False, "w3"), ("c", 4, True, "r4")),
        )
        found = [(one.example_id, one.sample, one.generation) for one in attempts.read(said)]
        assert found == [
            ("a", 0, "r0"),
            ("b", 0, "r0"),
            ("a", 1, "w1"),
            ("a", 2, "w2"),
            ("b", 1, "u1"),
            ("c", 3, "w3"),
            ("c", 4, "r4"),
        ]

    def test_the_same_sample_twice_is_refused(self, tmp_path):
        said = self.write(tmp_path / "said.jsonl", ("a", 1, True, "so"), ("a", 0, True, "so"), ("a", 1, True, "so"))
        with pytest.raises(
            RequestError, match=rf"^{said}:3: not an attempt \(sample 1 of a stands in a line before\);"
        ):
            attempts.read(said)
        journal.write(said, 2 * [{"example_id": "a", "generation": "so"}])
        with pytest.raises(RequestError, match=rf"^{said}:2: not an attempt \(sample 0 of a"):
            attempts.read(said)

    def test_what_is_written_is_read(self, tmp_path):
        example = Example("t/0", "t", "line\u2028separator", "é?", "\ud800")
        held = [{"query": "key", "update": "be\ncause", "example_id": "t/1", "distance": 0.5}]
        attempts.write(tmp_path / "a.jsonl", [Attempt(example, "so. answer: no", "no", False, 0.25, held)])
        [said] = attempts.read(tmp_path / "a.jsonl")
        assert (said.example_id, said.generation, said.sample, said.score) == ("t/0", "so. answer: no", 0, 0.25)
        assert attempts.read_retrieved(tmp_path / "a.jsonl", "mend it") == {"t/0": ["be\ncause"]}

    def test_damaged_passages(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"example_id": "a", "retrieved": [{"update": 1}]}))
        with pytest.raises(RequestError, match=rf"^{path}:1: not a line of such a file \(.*retrieved\[0\]\.update`\)"):
            attempts.read_retrieved(path, "mend it")


def test_every_field_of_an_update_has_its_place_in_a_line():
    known = {field.name for field in msgspec.structs.fields(updates_file._Line)}
    assert known == {field.name for field in dataclasses.fields(Update)}


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    return objects.stand_in(monkeypatch, tmp_path)


class TestRemote:
    RUN = "gs://bucket/run[1]"

    def test_paths_keep_their_prefix(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert str(files.located(self.RUN)) == self.RUN and str(files.located("a")) == str(tmp_path / "a")
        assert files.is_remote(files.located(self.RUN) / "b") and not files.is_remote("gs:/b")

    def test_no_lock_is_taken(self, bucket):
        with lock.exclusive(self.RUN, "train"), lock.exclusive(self.RUN, "distill"), lock.in_turn(self.RUN):
            files.clean_up(self.RUN)
        assert not list(bucket.iterdir())

    def test_files_are_written_whole_in_their_place(self, bucket):
        files.write_json(f"{self.RUN}/results.json", {"runs": []})
        assert files.read_json(f"{self.RUN}/results.json", "mend it") == {"runs": []}
        files.write_text_where_changed(f"{self.RUN}/a", "1")
        with files.new_folder(f"{self.RUN}/out") as folder:
            files.write_text(folder / "b", "2")
        with pytest.raises(RequestError, match=r"^gs://bucket/run\[1\]/c: no such file; mend it$"):
            files.read_bytes(f"{self.RUN}/c", "mend it")
        assert {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()} == {
            "run[1]/results.json",
            "run[1]/a",
            "run[1]/out/b",
        }

    def test_journals_grow(self, bucket):
        path = f"{self.RUN}/updates.jsonl"
        told = [Update("a", "t", f"because {n}", "oracle", "why", n, 0) for n in range(3)]
        updates_file.append(path, told[:1])
        updates_file.append(path, told[1:])
        (bucket / "run[1]" / "updates.jsonl").write_bytes(
            (bucket / "run[1]" / "updates.jsonl").read_bytes() + b'{"example'
        )
        assert updates_file.read(path) == told
        assert updates_file.repair(path) == 9 and updates_file.repair(path) == 0
        writer = metrics.JsonLinesWriter(f"{self.RUN}/{results.METRICS}")
        for step in (1, 2):
            writer.write_scalars(step, {"loss": 0.5})
        assert journal.read_tolerantly(f"{self.RUN}/{results.METRICS}").records == [
            {"step": step, "loss": 0.5} for step in (1, 2)
        ]

    def test_what_a_bucket_refuses_is_told_in_one_line(self, bucket, monkeypatch):
        """TensorFlow's errors are no OSErrors, and of several lines."""
        refusal = tf.errors.PermissionDeniedError(None, None, "HTTP response code 403\n\t when reading it")
        files.write_text(f"{self.RUN}/a", "1")

        def refuse(*_):
            raise refusal

        monkeypatch.setattr(objects.Objects, "open", refuse)
        with pytest.raises(RunError, match=r"^gs://\S*/a: cannot be written \(HTTP.* 403 when .*\); see that you may"):
            files.write_text(f"{self.RUN}/a", "2")
        with pytest.raises(RequestError, match=r"^gs://\S*/a: cannot be read \(HTTP.* 403 when .*\); mend it$"):
            files.read_bytes(f"{self.RUN}/a", "mend it")

    def test_a_bucket_is_looked_for(self, bucket, monkeypatch):
        files.check_bucket(self.RUN)
        bucket.rmdir()
        with pytest.raises(RequestError, match=r"there is no bucket gs://bucket; make it"):
            files.check_bucket(self.RUN)

        def refuse(*_):
            raise tf.errors.PermissionDeniedError(None, None, "HTTP response code 403")

        # Who may read and write objects need not be allowed to ask for the bucket.
        monkeypatch.setattr(objects.Objects, "exists", refuse)
        files.check_bucket(self.RUN)

    def test_runs_are_found(self, bucket):
        files.write_json(f"{self.RUN}/results.json", {"runs": []})
        files.write_text(f"{self.RUN}/inference/a-1.jsonl", "")
        assert [str(path) for path in results.run_dirs("gs://bucket")] == [self.RUN]
        [path] = results.inference_files(results.run_dirs(self.RUN)[0]).values()
        assert str(path) == f"{self.RUN}/inference/a-1.jsonl"
