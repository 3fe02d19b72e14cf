"""A teacher asked at scale: against a server that fails as servers do, and against its own count of the cost."""

import asyncio
import dataclasses
import json
import signal

import hypothesis
import objects
import pytest
import teacher_server
from etils import epath
from hypothesis import strategies as st
from teacher_server import FAULTS, answer_batches, serve

from cd_jax.errors import RequestError, RunError
from cd_jax.learning import extending
from cd_jax.rundir import interrupt
from cd_jax.rundir import requests as journal
from cd_jax.rundir import updates as store
from cd_jax.rundir.requests import Answer, Choice, Requests, Tokens
from cd_jax.types import Attempt, Example
from cd_jax.update.policies.explanations import Explanations
from cd_jax.update.teachers import batch as batch_files
from cd_jax.update.teachers.budget import TeacherBudget
from cd_jax.update.teachers.pace import Pace, duration
from cd_jax.update.teachers.requests import Request

KEY = "sk-0123456789-this-is-secret"
EXAMPLES = [Example(f"e{i}", "t", f"Mary went to room {i}.", "Where is Mary?", f"room {i}") for i in range(12)]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def policy(server, wanted=3, **settings):
    return Explanations(lambda: teacher_server.teacher(server.url, **settings), wanted)


def extend(folder, server, attempts=None, examples=EXAMPLES, wanted=3, **settings):
    """All updates, and the bytes of their file."""
    path = folder / store.NAME
    updates = extending.extend(path, policy(server, wanted, **settings), examples, attempts or {})
    return updates, path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        return extend(tmp_path_factory.mktemp("undisturbed"), server)


def test_updates_come_in_the_order_of_the_examples_whatever_comes_first(tmp_path, undisturbed):
    updates, _ = undisturbed
    order = [(update.example_id, update.sample) for update in updates]
    assert order == sorted(order, key=lambda one: (int(one[0][1:]), one[1]))
    assert {update.example_id for update in updates} == {example.example_id for example in EXAMPLES}
    for example in EXAMPLES:
        texts = [update.update for update in updates if update.example_id == example.example_id]
        assert len(texts) == len(set(texts)) == 3
    assert len({update.prompt_hash for update in updates}) == 1 and len(updates[0].prompt_hash) == 16


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_nothing(tmp_path, undisturbed, fault):
    with serve(faults=(fault,), share=0.4, silence=0.4) as server:
        found = extend(tmp_path, server, timeout=0.2 if fault == "silence" else 5.0)
    assert found == undisturbed
    # Paid for twice only where the server did its work and the answer did not come.
    repeated = sum(server.paid.values()) - len(server.paid)
    assert (repeated > 0) == (fault in ("half a body", "silence", "no JSON", "a web page"))
    assert max(server.delivered.values()) == 1


def test_all_faults_at_once(tmp_path, undisturbed):
    with serve(faults=FAULTS, share=0.7, silence=0.4) as server:
        assert extend(tmp_path, server, timeout=0.3) == undisturbed
        sent = sum(server.seen.values())
        assert extend(tmp_path, server) == undisturbed
        assert sum(server.seen.values()) == sent


def test_nothing_is_asked_twice_and_more_asks_for_more_alone(tmp_path):
    with serve(variety=10**6) as server:
        extend(tmp_path, server, wanted=2)
        assert len(server.seen) == 24
        extend(tmp_path, server, wanted=3)
        assert len(server.seen) == sum(server.seen.values()) == 36
        # The updates are lost, the answers are not; and another program that makes something else of them asks nothing.
        whole = (tmp_path / store.NAME).read_bytes()
        (tmp_path / store.NAME).unlink()
        _, again = extend(tmp_path, server, wanted=3)
        assert sum(server.seen.values()) == 36
        assert sorted(again.splitlines()) == sorted(whole.splitlines())


def test_a_changed_prompt_asks_for_what_has_changed(tmp_path):
    wrong = {EXAMPLES[3].example_id: [Attempt(EXAMPLES[3], "so. answer: hall", "hall", False, 0.0, [])]}
    with serve() as server:
        extend(tmp_path / "a", server)
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / journal.NAME).write_bytes((tmp_path / "a" / journal.NAME).read_bytes())
        before = len(server.seen)
        extend(tmp_path / "b", server, wrong)
        fresh = [body for body in server.seen if b"hall" in body]
        assert len(server.seen) - before == len(fresh) >= 3


def test_who_has_no_more_to_say_is_not_asked_again(tmp_path):
    with serve(variety=1) as server:
        updates, _ = extend(tmp_path, server, max_extra_asks=2)
        assert len(updates) == len(EXAMPLES)
        sent = sum(server.seen.values())
        assert sent == len(EXAMPLES) * (3 + 2)
        extend(tmp_path, server, max_extra_asks=2)
        assert sum(server.seen.values()) == sent


class TestChoices:
    @pytest.mark.parametrize("ignores", [False, True])
    def test_one_request_for_several(self, tmp_path, ignores):
        with serve(ignores_n=ignores, variety=10**6) as server:
            updates, _ = extend(tmp_path, server, choices=3)
        assert [update.sample for update in updates] == [0, 1, 2] * len(EXAMPLES)
        asked = [json.loads(body).get("n", 1) for body in server.seen]
        assert asked.count(3) == len(EXAMPLES)
        assert asked.count(1) == (2 * len(EXAMPLES) if ignores else 0)

    def test_fewer_choices_are_told(self, tmp_path):
        with serve(ignores_n=True, variety=10**6) as server:
            asked = policy(server, choices=3)
            extending.extend(tmp_path / store.NAME, asked, EXAMPLES, {})
        assert "24 fewer choices" in asked.odd()


@pytest.mark.parametrize("chat", [True, False])
def test_log_probabilities_are_kept(tmp_path, chat):
    with serve() as server:
        settings = {"log_probs": True, "chat": chat, "prompt_file": "why_babi" if chat else "few_shot_babi"}
        updates, _ = extend(tmp_path, server, **settings)
    for update in updates:
        words = update.update.split()
        assert update.log_prob == pytest.approx(-sum(map(len, words)) / 8 / len(words))
    # The journal has the mean and no more of it.
    assert b"token" not in (tmp_path / journal.NAME).read_bytes().replace(b'"tokens"', b"")


class TestBudget:
    @pytest.mark.parametrize(
        ("bound", "spent"),
        [
            ({"requests": 10}, lambda server: sum(server.paid.values())),
            ({"tokens": 2000}, lambda server: sum(server.tokens)),
            (
                {"money": 0.0028, "input_price": 1.0, "output_price": 5.0},
                lambda server: (server.tokens[0] + 5 * server.tokens[1]) / 1e6,
            ),
        ],
        ids=["requests", "tokens", "money"],
    )
    @pytest.mark.parametrize("faults", [(), FAULTS], ids=["well", "faulty"])
    def test_is_never_passed_and_what_was_answered_is_kept(self, tmp_path, undisturbed, bound, spent, faults):
        most = next(iter(bound.values()))
        with serve(faults=faults, silence=0.3) as server:
            for _ in range(2):  # The second call has nothing left to spend.
                with pytest.raises(RunError, match="the budget of .* has no room for another request .*run again"):
                    extend(tmp_path, server, timeout=0.2, budget=lambda: TeacherBudget(**bound))
                assert 0 < spent(server) <= most
            assert extend(tmp_path, server, timeout=0.2) == undisturbed
        assert max(server.delivered.values()) == 1

    def test_counts_what_it_took_and_not_what_was_set_aside(self, tmp_path):
        """The bounds of all requests are far beyond the budget; what they take is not."""
        with serve() as server:
            extend(tmp_path / "a", server)
            took = sum(server.tokens)
            longest = 2 * 600
            extend(tmp_path / "b", server, max_tokens=200, budget=lambda: TeacherBudget(tokens=took + longest))
        kept = Requests(tmp_path / "b")
        assert sum(kept.tokens) == took and kept.requests == len(kept.answers)

    def test_of_tokens_wants_a_bound_of_an_answer(self):
        with pytest.raises(RequestError, match="wants OpenAITeacher.max_tokens"):
            teacher_server.teacher("http://127.0.0.1:1/v1", max_tokens=None, budget=lambda: TeacherBudget(tokens=1))

    def test_of_money_wants_prices(self):
        with pytest.raises(RequestError, match=r"TeacherBudget\.input_price"):
            TeacherBudget(money=1.0)


def test_what_the_user_ends_is_taken_up(tmp_path, undisturbed, monkeypatch):
    with serve(latency=0.05) as server:
        looks = iter(range(10**6))
        ends = interrupt.Interrupted(signal.SIGINT)

        def check(kept=""):
            if next(looks) == 4:
                raise ends

        monkeypatch.setattr(interrupt, "check", check)
        with pytest.raises(interrupt.Interrupted):
            extend(tmp_path, server, max_concurrency=2)
        monkeypatch.setattr(interrupt, "check", lambda kept="": None)
        assert extend(tmp_path, server) == undisturbed
    # What was in flight was waited for.
    assert max(server.paid.values()) == 1


def test_answers_in_a_bucket_are_paid_for_once(tmp_path, undisturbed, monkeypatch):
    bucket = objects.stand_in(monkeypatch, tmp_path)
    folder = epath.Path(objects.NAME) / "asked"
    with serve() as server:
        assert extend(folder, server) == undisturbed
        sent = sum(server.seen.values())
        (bucket / "asked" / store.NAME).unlink()
        assert extend(folder, server) == undisturbed
        assert sum(server.seen.values()) == sent == len(Requests(folder).answers)


class TestBatch:
    def test_gives_the_same_as_asking(self, tmp_path, undisturbed):
        with serve() as server:
            pass
        asked, path, rounds = policy(server), tmp_path / store.NAME, 0
        while True:
            requests = Requests(tmp_path)
            waiting = extending.lacking(path, asked, EXAMPLES, {})
            wanted = [one for *_, missing in asked.replay(waiting, 0, requests.answers) for one in missing]
            if not wanted:
                break
            folder = tmp_path / f"round{rounds}"
            batch_files.write(folder, wanted, asked.asked_teacher.body, most_requests=10)
            assert len(list(folder.glob("batch-*.jsonl"))) == -(-len(wanted) // 10)
            for file in answer_batches(folder, server.settings):
                answers, failed = batch_files.read(file, asked.asked_teacher.read_body)
                assert not failed
                requests.take(answers)
            requests.close()
            rounds += 1
        assert rounds > 1  # Some answers were repeated.
        assert extend(tmp_path, server) == undisturbed
        assert not server.seen

    def test_files_are_of_the_size_that_services_take(self, tmp_path):
        requests = [Request("m", (("user", f"{i} " + "x" * 100),), {}, i) for i in range(50)]
        number, of_files = batch_files.write(tmp_path, requests * 2, Request.body, most_bytes=2000)
        files = sorted(tmp_path.glob("batch-*"))
        assert (number, of_files) == (50, len(files))
        assert all(path.stat().st_size <= 2000 for path in files)
        names = [json.loads(line)["custom_id"] for path in files for line in path.read_text().splitlines()]
        assert names == [request.hash for request in requests]
        with pytest.raises(RequestError, match="holds batch files already"):
            batch_files.write(tmp_path, requests, Request.body)

    def test_what_is_not_sent_is_not_exported(self, tmp_path):
        teacher = teacher_server.teacher("http://127.0.0.1:1/v1", send_seed=False)
        [request] = next(teacher.dialogue(EXAMPLES[0], None, [0], 0, []))
        batch_files.write(tmp_path, [request], teacher.body)
        [line] = (tmp_path / "batch-00000.jsonl").read_text().splitlines()
        assert "seed" not in json.loads(line)["body"]

    def test_failures_are_told_and_damage_is_refused(self, tmp_path):
        path = tmp_path / "out.jsonl"
        failed = {
            "custom_id": "a",
            "response": {"status_code": 400, "body": {"error": {"message": "no"}}},
            "error": None,
        }
        expired = {"custom_id": "b", "response": None, "error": {"code": "batch_expired"}}
        path.write_text(json.dumps(failed) + "\n" + json.dumps(expired) + "\n")
        answers, said = batch_files.read(path, lambda body: Answer())
        assert not answers and "batch_expired" in said[1]
        bodiless = {"custom_id": "c", "response": {"status_code": 200, "body": None}, "error": None}
        path.write_text(json.dumps(bodiless) + "\n")
        with pytest.raises(RequestError, match=r"out\.jsonl:1: not an answer of a batch .*download"):
            batch_files.read(path, teacher_server.teacher("http://127.0.0.1:1/v1").read_body)
        path.write_text(json.dumps(failed) + "\n{\n")
        with pytest.raises(RequestError, match=r"out\.jsonl:2: not an answer of a batch .*download"):
            batch_files.read(path, lambda body: Answer())


class TestJournal:
    LINES = st.lists(st.sampled_from(["send", "refuse", "answer"]), max_size=30)

    @hypothesis.given(LINES, st.integers(0, 10**6), st.data())
    @hypothesis.settings(max_examples=50, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
    def test_reads_what_was_written_wherever_it_was_cut(self, tmp_path_factory, lines, _, data):
        folder = tmp_path_factory.mktemp("journal")
        kept = Requests(folder)
        states = [(0, Tokens(0, 0), {})]
        for line in lines:
            name = data.draw(st.sampled_from("ab"))
            if line == "send":
                kept.send(name, Tokens(30, 20))
            elif line == "refuse":
                kept.refuse(name)
            else:
                asyncio.run(kept.answer(name, Answer((Choice(f"because {name} é"),), usage=(7, 3))))
            states.append((kept.requests, kept.tokens, dict(kept.answers)))
        kept.close()
        path = folder / journal.NAME
        whole = path.read_bytes() if path.exists() else b""
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        again = Requests(folder)
        # A last line without its newline counts where it is whole.
        number = whole[:cut].count(b"\n") + (cut < len(whole) and whole[cut : cut + 1] == b"\n" and cut > 0)
        assert (again.requests, again.tokens, again.answers) == states[number]
        assert again.requests >= 0 and min(again.tokens) >= 0

    def test_a_damaged_line_is_named(self, tmp_path):
        (tmp_path / journal.NAME).write_text('{"line": "refused", "request": "a"}\n{"line": "asked"}\n{}\n')
        with pytest.raises(RequestError, match=r"requests\.jsonl:2: not a request or an answer .*; delete the line"):
            Requests(tmp_path)


class TestRequest:
    REQUEST = Request("m", (("user", "why"),), {"temperature": 0.7, "max_tokens": 200}, 7, 1)

    def test_its_name_is_fixed(self):
        """What was paid for must be found by every later version."""
        assert self.REQUEST.hash == "7f31d0c78878ec51acc861e280c7f82a"

    @pytest.mark.parametrize(
        "other",
        [
            {"model": "n"},
            {"messages": (("user", "why?"),)},
            {"sampling": {}},
            {"seed": 8},
            {"sample": 2},
            {"choices": 2},
        ],
        ids=str,
    )
    def test_whatever_the_answer_depends_on_is_in_its_name(self, other):
        assert dataclasses.replace(self.REQUEST, **other).hash != self.REQUEST.hash

    @hypothesis.given(st.text(max_size=50))
    def test_no_text_has_more_tokens_than_bytes(self, text):
        request = dataclasses.replace(self.REQUEST, messages=(("user", text),))
        assert request.bound.prompt > len(text.encode("utf-8", "replace"))
        assert request.bound.answer == 200


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class TestPace:
    def pace(self, most=64):
        clock = Clock()
        return Pace(most, clock), clock

    def test_grows_by_one_a_round_and_halves_once(self):
        pace, clock = self.pace()
        start = pace.window
        for _ in range(int(start)):
            pace.succeeded({})
        assert start + 0.8 < pace.window < start + 1
        for _ in range(10**4):
            pace.succeeded({})
        assert pace.window == 64
        began = clock.now
        clock.now += 1
        for _ in range(5):  # All of them were in flight when the first was refused.
            pace.refused(began, {}, None)
        assert pace.window == 32
        pace.refused(clock.now, {}, None)
        assert pace.window == 16

    def test_waits_as_long_as_it_is_told(self):
        pace, clock = self.pace()
        pace.refused(clock.now, {}, 7.0)
        assert pace._pause(1) == pytest.approx(7.0)
        clock.now += 7.0
        assert pace._pause(1) <= 0

    def test_sends_no_more_than_is_left(self):
        async def sent():
            pace, clock = self.pace()
            pace.succeeded({"x-ratelimit-remaining-requests": "2", "x-ratelimit-reset-requests": "1m0s"})
            for _ in range(2):
                async with pace.turn(1):
                    pass
            assert pace._pause(1) == pytest.approx(60.0)
            clock.now += 60.0
            async with pace.turn(1):
                pass
            pace.succeeded({"x-ratelimit-remaining-tokens": "500", "x-ratelimit-reset-tokens": "20ms"})
            assert pace._pause(400) <= 0 < pace._pause(600)

        asyncio.run(sent())

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("1.5", 1.5),
            ("6m0s", 360),
            ("20ms", 0.02),
            ("1h2m3s", 3723),
            ("", None),
            (None, None),
            ("soon", None),
            ("nan", None),
        ],
    )
    def test_reads_durations(self, text, seconds):
        assert duration(text) == (None if seconds is None else pytest.approx(seconds))


def test_the_key_is_nowhere(tmp_path, capfd):
    """Neither in the folder nor in what is printed, also where the server says it and the model writes it."""
    with serve(spiteful=KEY, faults=FAULTS, silence=0.3) as server:
        extend(tmp_path, server, timeout=0.2)
        server.settings.share, server.settings.faults = 1.0, ("error",)
        with pytest.raises(RunError) as error:
            extend(tmp_path, server, max_retries=0, wanted=4)
    assert server.paid and KEY not in str(error.value)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert "[key]" in (tmp_path / journal.NAME).read_text()
    output = capfd.readouterr()
    assert KEY not in output.out + output.err
