"""Tests of the update policy. The endpoint is a real HTTP server on the loopback interface, and no other is asked."""

import contextlib
import dataclasses
import http.server
import json
import logging
import random
import threading
import traceback

import gin
import pytest
import teacher_server
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.errors import RequestError, RunError
from cd_jax.types import Example
from cd_jax.update.teachers import replies
from cd_jax.update.teachers.openai import OpenAITeacher
from cd_jax.update.teachers.oracle import OracleTeacher

KEY = "sk-0123456789-this-is-secret"

FACTS = ("Mary went back to the bathroom.", "After that she went to the bedroom.")
BABI = Example("babi_qa11/train/3", "babi_qa11", " ".join(FACTS), "Where is Mary?", "bedroom", FACTS)
SENSE = Example(
    "com2sense/train/1",
    "com2sense",
    "A bowling ball is heavier than an empty bottle.",
    "Does this make sense?",
    "yes",
    contrast="A bowling ball is lighter than an empty bottle.",
    pair_id="1",
)
NONSENSE = dataclasses.replace(SENSE, example_id="com2sense/train/2", answer="no")
BARE = Example("babi_qa1/train/9", "babi_qa1", "Mary went to the kitchen.", "Where is Mary?", "kitchen")

EXAMPLES = st.builds(
    Example,
    example_id=st.text(),
    task=st.text(),
    context=st.text(),
    question=st.text(),
    answer=st.sampled_from(["yes", "no", "kitchen", "s,e", ""]),
    supporting_facts=st.lists(st.text(), max_size=3).map(tuple),
    contrast=st.text(),
)


class TestOracle:
    @given(example=EXAMPLES, attempt=st.none() | st.text(), seed=st.integers(), num_updates=st.integers(0, 5))
    def test_distinct_and_deterministic(self, example, attempt, seed, num_updates):
        explanations = OracleTeacher().explain(example, attempt, num_updates, seed)
        assert explanations == OracleTeacher().explain(example, attempt, num_updates, seed)
        assert len({text for text, *_ in explanations}) == len(explanations) == min(num_updates, 3)
        # Asking for fewer gives the first of the same.
        assert explanations == OracleTeacher().explain(example, attempt, 9, seed)[:num_updates]

    def test_contains_the_facts(self):
        texts = [text for text, *_ in OracleTeacher().explain(BABI, None, 3, 0)]
        assert all(" ".join(FACTS) in text for text in texts)
        assert f"because {' '.join(FACTS)}" in texts

    @pytest.mark.parametrize(("example", "because"), [(SENSE, "would not make sense"), (NONSENSE, "would make sense")])
    def test_contrast(self, example, because):
        explanations = {said.prompt: said.text for said in OracleTeacher().explain(example, None, 3, 0)}
        assert all(example.contrast in text for text in explanations.values())
        assert explanations["because"] == f"because it {because} to say: {example.contrast}"

    def test_neither_facts_nor_contrast(self):
        texts = [text for text, *_ in OracleTeacher().explain(BARE, None, 3, 0)]
        assert "because the answer is kitchen." in texts

    def test_one_update_varies_over_examples(self):
        examples = [dataclasses.replace(BABI, example_id=str(i)) for i in range(50)]
        assert len({OracleTeacher().explain(example, None, 1, 0)[0].prompt for example in examples}) == 3

    def test_wrong_attempt_is_contrasted(self):
        texts = [text for text, *_ in OracleTeacher().explain(BABI, "because so. answer: Bathroom\n", 3, 0)]
        assert sum(text.endswith("it is bedroom and not bathroom.") for text in texts) == 1

    @pytest.mark.parametrize("attempt", [None, "", "answer:", "bathroom", "answer: Bedroom.", "answer: " + "x " * 50])
    def test_other_attempts_change_nothing(self, attempt):
        assert OracleTeacher().explain(BABI, attempt, 3, 0) == OracleTeacher().explain(BABI, None, 3, 0)


def _completion(content):
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@contextlib.contextmanager
def _serve(replies):
    """Serves (status, body) replies in turn, the last one for ever; yields the base URL and the requests seen."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, self.headers["Authorization"], body))
            status, reply = replies[min(len(requests), len(replies)) - 1]
            payload = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if payload[:1] == b"<" else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            # So that the client's waits do not slow the tests down.
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _explain(replies, num_updates=2, attempt=None, seed=7, **kwargs):
    # One after the other, since the replies are.
    with _serve(replies) as (url, requests):
        return teacher_server.teacher(url, max_concurrency=1, **kwargs).explain(
            BABI, attempt, num_updates, seed
        ), requests


class TestOpenAITeacher:
    def test_good_answers(self):
        replies = [(200, _completion(" because\n\tshe  went. ")), (200, _completion("she is there"))]
        explanations, requests = _explain(replies, attempt="so.\nanswer: bathroom", temperature=0.2, max_tokens=50)
        assert [said.text for said in explanations] == ["because she went.", "she is there"]
        path, authorization, body = requests[0]
        assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
        assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0.2, 50, 7)
        assert requests[1][2]["seed"] != 7
        prompt = body["messages"][0]["content"]
        assert explanations[0].prompt == prompt
        assert all(part in prompt for part in (BABI.context, BABI.question, BABI.answer, "so. answer: bathroom"))

    def test_bindings_and_environment(self, monkeypatch):
        with _serve([(200, _completion("because"))]) as (url, requests):
            monkeypatch.setenv("OPENAI_BASE_URL", url)
            monkeypatch.setenv("OPENAI_MODEL", "from-environment")
            gin.parse_config("OpenAITeacher.temperature = 0.0")
            try:
                teacher = OpenAITeacher()
            finally:
                gin.clear_config()
            teacher.explain(BABI, None, 1, 0)
        assert teacher.name == requests[0][2]["model"] == "from-environment"
        assert requests[0][2]["temperature"] == 0

    @pytest.mark.parametrize(
        "nonsense",
        [
            _completion(""),
            _completion(" \n "),
            _completion("..."),
            _completion(None),
            _completion("because"),
            _completion("x") | {"choices": []},
            _completion("x") | {"choices": None},
            _completion("x") | {"choices": [{"index": 0}]},
            {},
        ],
    )
    def test_nonsense_is_asked_again(self, nonsense):
        replies = [(200, _completion("because")), (200, nonsense), (200, nonsense), (200, _completion("so"))]
        explanations, requests = _explain(replies)
        assert [said.text for said in explanations] == ["because", "so"]
        assert len(requests) == 4
        assert len({body["seed"] for _, _, body in requests}) == 4

    def test_nothing_but_nonsense_is_the_end(self):
        explanations, requests = _explain([(200, _completion(" "))], max_extra_asks=2)
        # Two that are wanted, and two more of the first.
        assert (explanations, len(requests)) == ([], 4)

    def test_failures_then_success(self):
        busy = (500, {"error": {"message": "busy"}})
        explanations, requests = _explain([busy, busy, (200, _completion("because"))], 1, max_retries=2)
        assert [said.text for said in explanations] == ["because"]
        assert len(requests) == 3

    @pytest.mark.parametrize(
        ("status", "mend"),
        [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (400, "bindings"), (404, "/v1"), (500, "")],
    )
    def test_the_key_is_never_shown(self, status, mend, caplog, capfd):
        caplog.set_level(logging.DEBUG)
        reply = {"error": {"message": f"Incorrect\nAPI key provided: {KEY}.", "code": KEY}}
        with pytest.raises(RunError) as caught:
            _explain([(status, reply)], max_retries=1)
        message = str(caught.value)
        assert "\n" not in message and mend in message and KEY[:8] not in message
        assert "http://127.0.0.1:" in message and str(status) in message
        output = capfd.readouterr()
        for text in (message, "".join(traceback.format_exception(caught.value)), caplog.text, output.out + output.err):
            assert KEY not in text
        assert caught.value.__cause__ is None and caught.value.__context__ is None

    @pytest.mark.parametrize("reply", ["<html>hello</html>", '{"choices": [', ""])
    def test_another_kind_of_server(self, reply):
        with pytest.raises(RunError, match="does not speak completions.*/v1"):
            _explain([(200, reply)], max_retries=1)

    def test_no_server(self):
        with _serve([]) as (url, _):
            pass
        with pytest.raises(RunError, match=f"{url}: cannot connect"):
            teacher_server.teacher(url, max_retries=0).explain(BABI, None, 1, 0)

    def test_slow_server(self):
        # A listening socket that nobody accepts from: the connection stands, the answer never comes.
        with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
            teacher = teacher_server.teacher(f"http://127.0.0.1:{server.server_port}/v1", max_retries=0, timeout=0.1)
            with pytest.raises(RunError, match="TeacherClient.timeout"):
                teacher.explain(BABI, None, 1, 0)

    @pytest.mark.parametrize("url", ["http://user:password@host/v1", "http://host/v1?token=hidden"])
    def test_bindings_hold_no_credentials(self, url):
        with pytest.raises(RequestError, match="set OPENAI_BASE_URL instead") as caught:
            teacher_server.teacher(url)
        assert "password" not in str(caught.value) and "hidden" not in str(caught.value)

    def test_credentials_in_the_url_are_not_shown(self, monkeypatch):
        with _serve([]) as (url, _):
            pass
        monkeypatch.setenv("OPENAI_BASE_URL", url.replace("//", "//user:password@") + "?token=hidden")
        teacher = teacher_server.teacher(max_retries=0)
        with pytest.raises(RunError) as caught:
            teacher.explain(BABI, None, 1, 0)
        assert "password" not in str(caught.value) and "hidden" not in str(caught.value)

    @pytest.mark.parametrize("key", ["", "  ", "sk-two words", "sk-schlüssel"])
    def test_missing_or_impossible_key(self, monkeypatch, key):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(RequestError, match="OPENAI_API_KEY") as caught:
            OpenAITeacher("m")
        assert "sk-" not in str(caught.value)

    def test_missing_model(self):
        with pytest.raises(RequestError, match="OPENAI_MODEL"):
            OpenAITeacher()

    @pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://[", "http://host:port"])
    def test_wrong_base_url(self, url):
        with pytest.raises(RequestError, match="OPENAI_BASE_URL"):
            teacher_server.teacher(url)

    def test_own_prompt(self, tmp_path):
        path = tmp_path / "mine.txt"
        path.write_text("Why ${answer}? That is $$1. $question")
        explanations, _ = _explain([(200, _completion("because"))], 1, prompt_file=path)
        assert explanations[0].prompt == "Why bedroom? That is $1. Where is Mary?"

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("Why $anser?", r"\$anser"),
            ("Costs $5", r"\$\$"),
            (None, "no such file"),
            ("", r"neither \$context nor \$question"),
            ("Why $answer?", r"neither \$context nor \$question"),
            ("[system]\nBe brief.\n[asistant]\nyes\n[user]\n$question", r"'\[asistant\]' is no heading"),
            ("[User]\n$question", r"'\[User\]' is no heading"),
            ("Be brief.\n[user]\n$question", r"text before \[user\]"),
            ("[user]\n$question\n[assistant]\nyes", r"ends with \[assistant\]"),
        ],
    )
    def test_wrong_prompt(self, tmp_path, text, what):
        path = tmp_path / "mine.txt"
        if text is not None:
            path.write_text(text)
        with pytest.raises(RequestError, match=f"{path}.*{what}"):
            teacher_server.teacher(prompt_file=path)

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_chat_of_ones_own(self, tmp_path, end):
        path = tmp_path / "chat.txt"
        turns = ["[system]", "Be brief.", "[user]", "Why 1?", "[assistant]", "So.", "[user]", "$question $contrast"]
        path.write_bytes(end.join(turns).encode())
        _, requests = _explain([(200, _completion("because"))], 1, prompt_file=path)
        assert [(one["role"], one["content"]) for one in requests[0][2]["messages"]] == [
            ("system", "Be brief."), ("user", "Why 1?"), ("assistant", "So."), ("user", "Where is Mary? nothing")
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("shown", "left"),
        [
            (f"Incorrect API key provided: {KEY[:7]}******{KEY[-4:]}.", ""),
            (f"the key that ends in {KEY[-6:]} is revoked", "is revoked"),
            (f"no such user: {KEY}", "no such user"),
        ],
    )
    def test_the_ends_of_the_key_are_not_shown(self, shown, left):
        with pytest.raises(RunError) as caught:
            _explain([(400, {"error": {"message": shown}})])
        message = str(caught.value)
        assert not any(KEY[:n] in message or KEY[-n:] in message for n in range(4, len(KEY) + 1))
        assert left in message

    def test_an_answer_does_not_keep_the_key(self):
        explanations, _ = _explain([(200, _completion(f"because {KEY} says so, and {KEY[5:20]}"))], 1)
        assert explanations[0].text == "because [key] says so, and [key]"

    def test_what_is_no_json_is_asked_again(self):
        replies = [(200, "<html>busy</html>"), (200, '{"choices": ['), (200, _completion("because"))]
        explanations, requests = _explain(replies, 1, max_retries=2)
        assert [said.text for said in explanations] == ["because"]
        assert len(requests) == 3 and len({body["seed"] for *_, body in requests}) == 1

    @pytest.mark.parametrize(
        ("name", "status", "message", "instead"),
        [
            ("seed", 422, "[{'loc': ['body', 'seed'], 'msg': 'Extra inputs are not permitted'}]", None),
            ("seed", 400, "Unknown parameter: 'seed'.", None),
            (
                "max_tokens",
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
                "max_completion_tokens",
            ),
            ("temperature", 400, "'temperature' does not support 0.7 with this model. Only 1 is supported.", None),
        ],
    )
    def test_what_a_server_does_not_take_is_left_out(self, name, status, message, instead, capfd):
        refusal = (status, {"error": {"message": message}})
        explanations, requests = _explain([refusal, (200, _completion("because")), (200, _completion("so"))])
        assert [said.text for said in explanations] == ["because", "so"]
        assert name in requests[0][2] and all(name not in body for *_, body in requests[1:])
        assert instead is None or all(body[instead] == 200 for *_, body in requests[1:])
        assert capfd.readouterr().err.count("does not take") == 1

    def test_nothing_is_sent_that_is_bound_to_none(self):
        _, requests = _explain([(200, _completion("because"))], 1, temperature=None, max_tokens=None, send_seed=False)
        assert requests[0][2].keys() == {"model", "messages"}

    def test_an_exhausted_quota_is_told_at_once(self):
        reply = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
        with _serve([(429, reply)]) as (url, requests), pytest.raises(RunError, match="the quota is exhausted"):
            teacher_server.teacher(url, max_retries=5).explain(BABI, None, 1, 0)
        assert len(requests) == 1

    def test_a_socks_proxy_without_its_package(self, monkeypatch):
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
        with pytest.raises((RequestError, RunError)) as caught:
            teacher_server.teacher("http://127.0.0.1:1/v1", max_retries=0).explain(BABI, None, 1, 0)
        assert "proxy" in str(caught.value).lower()


def _choice(finish_reason="stop", **message):
    return {"choices": [{"finish_reason": finish_reason, "message": {"role": "assistant", **message}}]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "text", "error", "delta", "finish_reason"]), inner
        )
    ),
)


class TestReplies:
    """The forms in which public servers answer."""

    @pytest.mark.parametrize(
        ("response", "expected"),
        [
            (_choice(content="because"), ("because", "")),
            (
                _choice(content=[{"type": "text", "text": "because "}, {"type": "text", "text": "so"}]),
                ("because so", ""),
            ),
            (_choice(content="<think>Hm. Answer: no.</think>\n\nbecause so"), ("because so", "")),
            (_choice(content="Hm.</think> because so"), ("because so", "")),
            (_choice(content="<think>Hm, and then", finish_reason="length"), ("", "cut while thinking")),
            (_choice(content="because so <think>Hm"), ("because so", "")),
            (_choice(content="because so and", finish_reason="length"), ("because so and", "length")),
            (_choice(content=None, reasoning_content="Hm."), ("", "reasoning alone")),
            (_choice(content=None, reasoning="Hm.", finish_reason="length"), ("", "cut while thinking")),
            (_choice(content="", finish_reason="content_filter"), ("", "content filter")),
            (_choice(content=None, refusal="I cannot."), ("", "refusal")),
            (_choice(content=None, tool_calls=[{"id": "1"}], finish_reason="tool_calls"), ("", "tool call")),
            (_choice(content="because so. Answer: kitchen"), ("because so", "")),
            (_choice(content="**Answer:** kitchen"), ("", "answer alone")),
            (_choice(content="because\ud800 \x07so"), ("because\ufffd so", "")),
            (
                _choice(
                    content="<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>so"
                ),
                ("so", ""),
            ),
            ({"error": {"message": "overloaded"}}, ("", "error")),
            ({"choices": [{"text": "because", "finish_reason": "stop"}]}, ("because", "")),
            ({}, ("", "empty")),
            ([], ("", "error")),
        ],
    )
    def test_each_is_read_or_told(self, response, expected):
        assert replies.explanation(replies.receive(response))[:2] == expected

    def test_what_the_server_said_is_told(self):
        assert replies.explanation(replies.receive({"error": {"message": "overloaded"}})).said == "overloaded"
        assert replies.explanation(replies.receive(_choice(content=None, refusal="I cannot."))).said == "I cannot."

    @pytest.mark.parametrize("end", ["data: [DONE]\n\n", ""])
    def test_a_stream(self, end):
        deltas = [{"role": "assistant"}, {"content": "because "}, {"content": "so"}]
        events = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end
        assert replies.explanation(replies.receive(replies.read_stream(body))) == ("because so", "", "")
        # Cut in the middle: what there is, marked.
        cut = body[: body.index('"finish_reason": "stop"')].rpartition("data:")[0]
        assert replies.explanation(replies.receive(replies.read_stream(cut)))[:2] == ("because so", "length")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["choices", "message", "content", "text", "error", "delta", "finish_reason"]), inner
                )
            ),
        )
    )
    def test_nothing_else_is_raised(self, response):
        text, kind, _ = replies.explanation(replies.receive(response))
        assert bool(text) or bool(kind)


def test_oracle_and_store_do_not_differ_between_runs():
    """The order must come from a hash that Python does not salt."""
    order = [said.prompt for said in OracleTeacher().explain(BABI, None, 3, 0)]
    expected = ["because", "know", "story"]
    random.Random(f"0/{BABI.example_id}").shuffle(expected)
    assert order == expected
