"""Files read with care and written whole, the lock of a folder, and signals as a flag."""

import contextlib
import json
import math
import os
import resource
import signal
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import files, interrupt, lock

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@contextlib.contextmanager
def program(text, *arguments):
    """A Python program that prints `ready`, running until the block ends."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


class TestParseJson:
    @given(JSON)
    def test_is_json_s(self, value):
        assert files.parse_json(json.dumps(value)) == value
        assert files.parse_json(json.dumps(value).encode()) == value

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
            (b"{\n\n1", "not JSON: Expecting property name enclosed in double quotes at line 3 column 1"),
            (b"\xff", "not UTF-8 at byte 0"),
            (b"[" * 10**6, "nested too deep"),
            (b"1" * 10**4, "4300 digits"),
            (b'{"a": NaN}', "NaN is no number"),
            (b"[-Infinity]", "-Infinity is no number"),
            (b"[1e999]", "1e999 is too large a number"),
            (b'[{"a": 1, "b": 2, "a": 1}]', "'a' stands twice in an object"),
            (b"", "not JSON"),
        ],
    )
    def test_all_else_is_one_error(self, text, said):
        with pytest.raises(ValueError) as caught:
            files.parse_json(text)
        assert said in str(caught.value) and "\n" not in str(caught.value)


class TestRead:
    def test_an_object(self, tmp_path):
        (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
        assert files.read_json(tmp_path / "a.json", "mend it") == {"a": 1}

    @pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b"3", b""])
    def test_no_object(self, tmp_path, content):
        path = tmp_path / "a.json"
        path.write_bytes(content)
        with pytest.raises(RequestError) as caught:
            files.read_json(path, "mend it")
        assert str(caught.value).startswith(f"{path}: not ") and str(caught.value).endswith("; mend it")

    @pytest.mark.parametrize("name", ["missing", "folder", "nul\0"])
    def test_no_file(self, tmp_path, name):
        (tmp_path / "folder").mkdir()
        for read in (files.read_bytes, files.read_text, files.read_json):
            with pytest.raises(RequestError, match="; mend it$"):
                read(tmp_path / name, "mend it")

    def test_an_array_where_one_is_asked_for(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_bytes(b"[1]")
        assert files.read_json(path, "mend it", list) == [1]
        path.write_bytes(b"{}")
        with pytest.raises(RequestError, match=rf"^{path}: not a JSON array; mend it$"):
            files.read_json(path, "mend it", list, "look for it")
        with pytest.raises(RequestError, match="no such file; look for it$"):
            files.read_json(tmp_path / "lost", "mend it", list, "look for it")


class TestWrite:
    def test_whole_and_nothing_beside_it(self, tmp_path):
        path = tmp_path / "new" / "a.json"
        files.write_json(path, {"a": "é\ud800"})
        # The escape of a lone surrogate is what JSON calls for.
        assert json.loads(path.read_text()) == {"a": "é\ud800"}
        files.write_json(path, {})
        assert [p.name for p in path.parent.iterdir()] == ["a.json"]
        umask = os.umask(0)
        os.umask(umask)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask

    def test_what_is_no_json_is_refused(self, tmp_path):
        with pytest.raises(ValueError):
            files.write_json(tmp_path / "a.json", {"accuracy": math.nan})
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_keeps_what_was_there(self, tmp_path):
        path = tmp_path / "a.txt"
        files.write_text(path, "before")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(RunError, match=f"^{path}: cannot be written .*; free some space"):
                files.write_text(path, "x" * 10**6)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_text() == "before"
        assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]

    def test_readers_find_one_or_the_other(self, tmp_path):
        path = tmp_path / "a.txt"
        texts = {"a" * 10**6, "b" * 10**6}
        files.write_text(path, "a" * 10**6)
        stop = threading.Event()

        def write():
            while not stop.is_set():
                for text in sorted(texts):
                    files.write_text(path, text)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert {path.read_text() for _ in range(200)} <= texts
        finally:
            stop.set()
            writer.join()


class TestNewFolder:
    def test_appears_in_one_piece(self, tmp_path):
        target = tmp_path / "out"
        with files.new_folder(target) as folder:
            (folder / "a").write_text("1")
            assert not target.exists()
        assert [p.name for p in target.iterdir()] == ["a"] and list(tmp_path.iterdir()) == [target]

    def test_replaces_what_is_there(self, tmp_path):
        for name in ("a", "b"):
            with files.new_folder(tmp_path / "out") as folder:
                (folder / name).write_text("1")
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["b"]

    def test_a_failure_leaves_what_was_there(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out.tmp").mkdir()
        with pytest.raises(RequestError), files.new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("1")
            raise RequestError("no such network")
        # Also a folder of the user's with a name like ours.
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["out", "out.tmp"]

    def test_a_full_disk(self, tmp_path):
        with pytest.raises(RunError, match="cannot be written"), files.new_folder(tmp_path / "out"):
            raise OSError(28, os.strerror(28))
        assert list(tmp_path.iterdir()) == []


class TestCleanUp:
    def test_of_the_dead_alone(self, tmp_path):
        writing = (
            "import pathlib, sys, time\nfrom cd_jax.rundir import files\n"
            "with files._temporary(pathlib.Path(sys.argv[1])), files.new_folder(sys.argv[2]) as f:\n"
            "  (f / 'x').write_text('1'); print('ready', flush=True); time.sleep(600)"
        )
        (tmp_path / "deep").mkdir()
        with program(writing, tmp_path / "a.json", tmp_path / "deep" / "out") as process:
            files.clean_up(tmp_path)
            assert len(list(tmp_path.rglob("*.tmp"))) == 2
            process.kill()
            process.wait()
            files.clean_up(tmp_path)
            assert list(tmp_path.rglob("*.tmp")) == []

    def test_what_others_named_stays(self, tmp_path):
        for name in ("a.tmp", ".a.json.123.tmp", f".a.{'0' * 31}.tmp", f"a.{'0' * 32}.tmp"):
            (tmp_path / name).write_text("mine")
        files.clean_up(tmp_path)
        assert len(list(tmp_path.iterdir())) == 4


class TestLock:
    HOLDS = (
        "import sys, time\nfrom cd_jax.rundir import lock\n"
        "with lock.exclusive(sys.argv[1], 'train'):\n  print('ready', flush=True); time.sleep(600)"
    )

    def test_a_second_one_is_refused_until_the_first_is_dead(self, tmp_path):
        folder = tmp_path / "run"
        with program(self.HOLDS, folder) as process:
            with (
                pytest.raises(RequestError, match=rf"cd_jax train \(process {process.pid}\) writes there now"),
                lock.exclusive(folder, "distill"),
            ):
                pytest.fail("entered")
            process.send_signal(signal.SIGKILL)
            process.wait()
        with lock.exclusive(folder, "distill"):
            (folder / "a").write_text("1")
        assert [p.name for p in folder.iterdir()] == ["a"]

    def test_a_verb_within_a_verb(self, tmp_path):
        with lock.exclusive(tmp_path, "demo"):
            with lock.exclusive(tmp_path / "." / "", "distill"):
                pass
            assert (tmp_path / lock.NAME).exists()
        assert list(tmp_path.iterdir()) == []

    def test_refused_before_anything_is_written(self, tmp_path):
        with pytest.raises(RequestError), lock.exclusive(tmp_path / "new" / "run", "train"):
            raise RequestError("no such task")
        assert not (tmp_path / "new" / "run").exists()

    def test_what_was_written_into_a_new_folder_stays(self, tmp_path):
        with lock.exclusive(tmp_path / "new", "train"):
            (tmp_path / "new" / "a").write_text("1")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(RunError, match="cannot be written .*; choose another --model_dir"),
            lock.exclusive(tmp_path / "file" / "run", "train"),
        ):
            pytest.fail("entered")


class TestInterrupt:
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_waits_to_be_looked_at(self, number, status):
        before = signal.getsignal(number)
        with interrupt.listening():
            interrupt.check()
            os.kill(os.getpid(), number)
            assert interrupt.requested()
            with pytest.raises(interrupt.Interrupted) as caught:
                interrupt.check("saved")
        assert caught.value.status == status and caught.value.kept == "saved"
        assert signal.getsignal(number) is before

    def test_the_last_one_is_forgotten(self):
        with interrupt.listening():
            os.kill(os.getpid(), signal.SIGTERM)
        with interrupt.listening():
            interrupt.check()

    def test_a_second_one_ends_at_once(self):
        waits = (
            "import time\nfrom cd_jax.rundir import interrupt\nwith interrupt.listening():\n"
            "  print('ready', flush=True)\n  while not interrupt.requested(): time.sleep(0.01)\n"
            "  print('asked', flush=True); time.sleep(600)"
        )
        with program(waits) as process:
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "asked\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 143
