"""The HTTP client against a server that speaks the protocol and misbehaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from chat_server import KEY, Server, said
from helpers import HANG_S

from experts.adapters.http_client import Budget, BudgetError, ChatClient, ServerError
from experts.adapters.http_vlm import HttpVlm
from experts.attributes import DEFAULT_ATTRIBUTES as ATTRIBUTES
from experts.attributes import read_answer
from experts.interfaces import ExpertError, People, Photo


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(server, pauses, monkeypatch) -> ChatClient:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return ChatClient(server.url, timeout_s=HANG_S, attempts=4, sleep=pauses.append)


def people(n: int) -> People:
    corners = np.array([[10 * i, 5, 10 * i + 30, 90] for i in range(n)], np.float64).reshape(n, 4)
    return People(corners, [str(i) for i in range(n)])


def photo(name: str = "p", seed: int = 0) -> Photo:
    return Photo(name, name, np.random.default_rng(seed).integers(0, 255, (100, 120, 3), np.uint8))


def vlm(server: Server, tmp_path, **options: Any) -> Any:
    settings = {"cache": str(tmp_path / "cache"), "first_pause_s": 0.001, "timeout_s": HANG_S, **options}
    expert = HttpVlm(url=server.url, **settings)
    expert.load()
    return expert


# ------------------------------------------------------------------------------------------------ failures that may pass


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_a_server_that_is_busy_is_asked_again_with_growing_pauses(server, client, pauses, code):
    server.answer = lambda _, n: (code, {}, b"busy") if n < 4 else (200, {}, said("fine"))
    assert client.complete({"x": 1})["choices"][0]["message"]["content"] == "fine"
    assert len(server.requests) == 4
    assert len(pauses) == 3
    for k, pause in enumerate(pauses):
        assert 0.5 * 2**k <= pause <= 1.5 * 2**k


def test_the_pause_a_server_asks_for_is_kept(server, client, pauses):
    server.answer = lambda _, n: (429, {"Retry-After": "17"}, b"") if n == 1 else (200, {}, said("fine"))
    client.complete({})
    assert pauses == [17.0]
    server.answer = lambda _, n: (503, {"Retry-After": "9999999"}, b"") if n == 3 else (200, {}, said("fine"))
    client.complete({})
    assert pauses[1] == client.longest_pause_s
    server.answer = lambda _, n: (
        (503, {"Retry-After": "Mon, 01 Jan 2035 00:00:00 GMT"}, b"") if n == 5 else (200, {}, said("fine"))
    )
    client.complete({})
    assert pauses[2] == client.longest_pause_s
    server.answer = lambda _, n: (503, {"Retry-After": "soon"}, b"") if n == 7 else (200, {}, said("fine"))
    client.complete({})
    assert pauses[3] <= 1.5


@pytest.mark.parametrize("how", ["cut", "not_json", "no_choices", "closed", "empty"])
def test_an_answer_that_does_not_arrive_whole_is_asked_for_again(server, client, how):
    def broken(handler, n):
        if n > 1:
            return 200, {}, said("fine")
        if how == "cut":
            return 200, {"Content-Length": "5000"}, said("half")
        if how == "not_json":
            return 200, {}, b"<html>gateway</html>"
        if how == "no_choices":
            return 200, {}, b'{"choices": []}'
        if how == "empty":
            return 200, {}, b""
        handler.connection.close()
        return None

    server.answer = broken
    assert client.complete({})["choices"][0]["message"]["content"] == "fine"
    assert len(server.requests) == 2


def test_a_silent_server_is_given_up(server, client):
    """It answers when the client has gone away twice: a client without a deadline would wait for ever."""
    client.timeout_s, client.attempts = 0.4, 2
    over = threading.Event()

    def silent(*_):
        over.wait(HANG_S)
        return 200, {}, said("late")

    server.answer = silent
    # Silence from the first request on: perhaps nobody is there.
    with pytest.raises(ExpertError, match="time"):
        client.complete({})
    over.set()
    assert client.budget.requests == 2


# ------------------------------------------------------------------------------------------------ failures for good


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_repeated(server, client, pauses, code):
    server.answer = lambda *_: (code, {}, b"no such model")
    with pytest.raises(ServerError, match=f"HTTP {code}: no such model"):
        client.complete({})
    assert len(server.requests) == 1
    assert not pauses


def test_after_the_last_attempt_the_reason_is_told(server, client):
    server.answer = lambda *_: (500, {}, b"kaput")
    with pytest.raises(ServerError, match="no answer in 4 attempts; the last: HTTP 500: kaput"):
        client.complete({})
    assert len(server.requests) == 4


def test_where_no_server_is_the_program_stops_with_advice(server, pauses):
    server.close()
    with pytest.raises(ExpertError, match=r"no server answers at http://127\.0\.0\.1.*vllm serve"):
        ChatClient(server.url, timeout_s=HANG_S, attempts=2, sleep=pauses.append).complete({})


def test_a_huge_answer_is_refused(server, client, monkeypatch):
    monkeypatch.setattr("experts.adapters.http_client.MAX_ANSWER_BYTES", 1000)
    server.answer = lambda *_: (200, {}, b" " * 5000)
    with pytest.raises(ServerError, match="more than 1000 bytes"):
        client.complete({})


# ------------------------------------------------------------------------------------------------ the key


def test_the_key_is_sent_in_its_header_and_told_to_nobody(server, client, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.answer = lambda handler, _: (401, {}, f"wrong key {handler.headers['Authorization']}".encode())
    with pytest.raises(ServerError) as caught:
        client.complete({})
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert KEY not in str(caught.value)
    assert "[key]" in str(caught.value)
    assert KEY not in repr(client)
    assert KEY not in json.dumps(server.requests)
    server.answer = lambda handler, _: (400, {}, f"schema? {handler.headers['Authorization']}".encode())
    (failed,) = vlm(server, tmp_path).words([photo()], [people(1)])
    assert isinstance(failed, ServerError)
    assert KEY not in str(failed)
    assert KEY not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_no_key_goes_unencrypted_to_another_machine(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ExpertError, match="unencrypted") as caught:
        ChatClient("http://gpu.example.org/v1")
    assert KEY not in str(caught.value)
    ChatClient("https://gpu.example.org/v1")
    ChatClient("http://localhost:8000/v1")
    ChatClient("http://gpu.example.org/v1", key_variable="")


def test_the_key_does_not_follow_a_redirect(server, client, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    other = Server()
    try:
        server.answer = lambda *_: (307, {"Location": other.url + "/chat/completions"}, b"")
        with pytest.raises(ServerError, match="HTTP 307"):
            client.complete({})
        assert not other.requests
    finally:
        other.close()


@pytest.mark.parametrize("url", ["ftp://x/v1", "localhost:8000", "https://me:secret@host/v1", ""])
def test_urls_that_cannot_be_are_refused(url):
    with pytest.raises(ExpertError, match=r"words\.url"):
        ChatClient(url)


# ------------------------------------------------------------------------------------------------ budget, cache, concurrency


def test_the_budget_ends_the_run_and_what_was_answered_is_kept(server, tmp_path):
    server.answer = lambda *_: (200, {}, said('{"age": "child", "gender": "female"}', usage=40))
    crowd = people(5)
    with pytest.raises(BudgetError, match=r"3 requests is spent.*--set=words\.max_requests=N"):
        vlm(server, tmp_path, max_requests=3, concurrency=1).words([photo()], [crowd])
    assert len(server.requests) == 3
    (answer,) = vlm(server, tmp_path, max_requests=2, concurrency=1).words([photo()], [crowd])
    assert len(server.requests) == 5
    np.testing.assert_array_equal(answer.anchors["age"], [0.33] * 5)
    with pytest.raises(BudgetError, match=r"tokens is spent.*--set=words\.max_total_tokens=N"):
        vlm(server, tmp_path, max_total_tokens=90, concurrency=1).words([photo("q", 1)], [crowd])
    assert len(server.requests) == 5 + 3


def test_budget_counts_only_whole_numbers_of_tokens():
    budget = Budget(max_tokens=10)
    for usage in (None, {}, {"total_tokens": "9"}, {"total_tokens": -5}, {"total_tokens": 4}):
        budget.add(usage)
    assert budget.tokens == 4


def test_the_cache_knows_picture_prompt_and_model(server, tmp_path):
    server.answer = lambda *_: (200, {}, said('{"age": "adult", "gender": "male"}'))
    ask = lambda **options: vlm(server, tmp_path, **options).words([photo()], [people(2)])  # noqa: E731
    first = ask()
    assert len(server.requests) == 2
    second = ask(
        reduce="expected", minimum=0.1, concurrency=1, timeout_s=2.0 * HANG_S
    )  # nothing that changes the question
    assert len(server.requests) == 2
    np.testing.assert_array_equal(first[0].anchors["age"], second[0].anchors["age"])
    changes: tuple[dict[str, Any], ...] = (
        {"model": "other"},
        {"prompts": ("person",)},
        {"max_side": 20},
        {"samples": 2},
    )
    for k, options in enumerate(changes, 1):
        before = len(server.requests)
        ask(**options)
        assert len(server.requests) == before + 2 * options.get("samples", 1), (k, options)
    vlm(server, tmp_path).words([photo(seed=7)], [people(2)])
    assert len(server.requests) == 2 + 2 + 2 + 2 + 4 + 2


def test_a_damaged_cache_file_is_asked_again(server, tmp_path):
    server.answer = lambda *_: (200, {}, said('{"age": "adult", "gender": "male"}'))
    vlm(server, tmp_path).words([photo()], [people(1)])
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_bytes(file.read_bytes()[:20])
    vlm(server, tmp_path).words([photo()], [people(1)])
    assert len(server.requests) == 2


def test_several_questions_are_under_way_at_once_but_not_more(server, tmp_path):
    together = threading.Barrier(3)

    def slow(*_):
        together.wait(HANG_S)
        time.sleep(0.1)  # a fourth request would come in now
        return 200, {}, said('{"age": "adult", "gender": "male"}')

    server.answer = slow
    vlm(server, tmp_path, concurrency=3).words([photo()], [people(9)])
    assert server.most_active == 3


def test_a_photo_that_fails_leaves_the_others(server, tmp_path):
    def picky(handler, _):
        body = json.dumps(server.requests[-1])
        return (403, {}, b"refused") if picky.bad in body else (200, {}, said('{"age": "teen", "gender": "girl"}'))

    import base64

    from experts.crops import person_picture, png_bytes

    shown, other, crowd = photo("a", 1), photo("b", 2), people(1)
    picky.bad = base64.b64encode(png_bytes(person_picture(other, crowd, 0, "head"))).decode()  # pyright: ignore
    server.answer = picky
    good, bad = vlm(server, tmp_path, concurrency=1).words([shown, other], [crowd, crowd])
    assert good.words == {"age": ["teenager"], "gender": ["female"]}
    assert isinstance(bad, ServerError)


# ------------------------------------------------------------------------------------------------ what is asked and read


def test_the_request_holds_picture_question_and_form(server, tmp_path):
    server.answer = lambda *_: (200, {}, said('{"age": "adult", "gender": "male"}'))
    vlm(server, tmp_path, model="my/finetune", logprobs=5).words([photo()], [people(1)])
    (request,) = server.requests
    assert request["model"] == "my/finetune"
    assert request["temperature"] == 0.0
    assert (request["logprobs"], request["top_logprobs"]) == (True, 5)
    picture, question = request["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert all(word in question["text"] for word in ("toddler", "teenager", "unknown", "JSON", "head and shoulders"))
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["gender"]["enum"] == ["male", "neutral", "female", "unknown"]
    assert schema["required"] == ["age", "gender"]


def test_probabilities_come_from_the_log_probabilities(server, tmp_path):
    tokens = [
        ('{"age"', {'{"age"': 1.0}),
        (': "', {': "': 1.0}),
        ("child", {"child": 0.6, "todd": 0.2, "te": 0.1, "unknown": 0.08, "banana": 0.02}),
        ('", "gender": "', {'", "gender": "': 1.0}),
        ("fem", {"fem": 0.9, "male": 0.1}),
        ('ale"}', {'ale"}': 1.0}),
    ]
    text = "".join(token for token, _ in tokens)
    server.answer = lambda *_: (200, {}, said(text, tokens))
    (answer,) = vlm(server, tmp_path).words([photo()], [people(1)])
    np.testing.assert_allclose(answer.probabilities["age"], [[0, 0.2, 0.6, 0.1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(answer.probabilities["gender"], [[0.1, 0, 0.9]], atol=1e-6)
    assert answer.words == {"age": ["child"], "gender": ["female"]}
    (mean,) = vlm(server, tmp_path, reduce="expected").words([photo()], [people(1)])
    np.testing.assert_allclose(mean.anchors["age"], [(0.2 * 0.1 + 0.6 * 0.33 + 0.1 * 0.5) / 0.9], atol=1e-6)
    (strict,) = vlm(server, tmp_path, minimum=0.7).words([photo()], [people(1)])
    assert strict.anchors["age"].tolist() == [-1.0]
    assert strict.anchors["gender"].tolist() == [1.0]


def test_without_log_probabilities_answers_are_counted(server, tmp_path):
    answers = iter(["child", "child", "teen", "unknown", "child"] * 2)
    lock = threading.Lock()

    def vary(*_):
        with lock:
            return 200, {}, said(json.dumps({"age": next(answers), "gender": "male"}))

    server.answer = vary
    (answer,) = vlm(server, tmp_path, samples=5, concurrency=1).words([photo()], [people(1)])
    np.testing.assert_allclose(answer.probabilities["age"], [[0, 0, 0.6, 0.2, 0, 0]])
    assert server.requests[0]["temperature"] == 0.7
    server.answer = lambda _, n: (200, {}, said(json.dumps({"age": "adult" if n % 2 else "senior", "gender": "man"})))
    (varied,) = vlm(server, tmp_path, prompts=("head", "person"), concurrency=1).words([photo()], [people(1)])
    np.testing.assert_allclose(varied.probabilities["age"], [[0, 0, 0, 0, 0.5, 0.5]])


def test_a_server_that_knows_no_extras_is_asked_without_them(server, tmp_path):
    def old(*_):
        request = server.requests[-1]
        if "logprobs" in request:
            return 400, {}, b"unknown parameter logprobs"
        if "response_format" in request:
            return 422, {}, b"no guided decoding here"
        return 200, {}, said('Sure! ```json\n{"age": "Baby", "gender": "unknown"}\n```')

    server.answer = old
    expert = vlm(server, tmp_path, concurrency=1)
    (answer,) = expert.words([photo()], [people(2)])
    assert answer.words == {"age": ["baby", "baby"], "gender": ["", ""]}
    assert answer.anchors["gender"].tolist() == [-1.0, -1.0]
    assert len(server.requests) == 3 + 1  # it learns


@pytest.mark.parametrize("content", [None, ["parts"], 5])
def test_an_answer_without_text(server, tmp_path, content):
    body = json.dumps({"choices": [{"message": {"content": content, "refusal": "I cannot tell."}}]}).encode()
    server.answer = lambda *_: (200, {}, body)
    (answer,) = vlm(server, tmp_path).words([photo()], [people(1)])
    if content is None:  # a refusal
        assert answer.words == {"age": [""], "gender": [""]}
    else:
        assert isinstance(answer, ServerError)


def test_further_attributes_are_asked_by_name(server, tmp_path):
    reply = {"age": "adult", "weight": "heavy", "height": "tall"}
    server.answer = lambda *_: (200, {}, said(json.dumps(reply)))
    asked = ("age", "weight", "height")
    (answer,) = vlm(server, tmp_path, ask=asked).words([photo()], [people(1)])
    assert answer.words == {"age": ["adult"], "weight": ["heavy"], "height": ["tall"]}
    assert answer.anchors["weight"].tolist() == [0.8]
    assert server.requests[0]["response_format"]["json_schema"]["schema"]["required"] == list(asked)
    vlm(server, tmp_path, ask=asked, together=False, concurrency=1).words([photo()], [people(1)])
    assert len(server.requests) == 1 + 3
    for wrong in ((), ("age", "age"), ("shoes",)):
        with pytest.raises(ExpertError, match=r"words\.ask: expected some of age, gender, weight, muscle, height"):
            vlm(server, tmp_path, ask=wrong)


def test_the_licence_is_the_models_or_must_be_stated():
    assert HttpVlm().card.licence == "apache-2.0"
    assert HttpVlm().card.commercial
    for closed in (
        HttpVlm(model="Qwen/Qwen2.5-VL-3B-Instruct"),
        HttpVlm(model="hosted"),
        HttpVlm(licence="cc-by-nc-4.0"),
    ):
        assert not closed.card.commercial
    assert HttpVlm(model="hosted", licence="mit").card.commercial
    hosted = HttpVlm(model="hosted", licence="terms of the host", commercial=True).card
    assert (hosted.licence, hosted.commercial) == ("terms of the host", True)


def test_options_that_cannot_be_are_refused(server, tmp_path):
    for options in ({"prompts": ("portrait",)}, {"reduce": "mode"}, {"form": "xml"}, {"samples": 0}):
        with pytest.raises(ExpertError, match=r"words\."):
            vlm(server, tmp_path, **options)


# ------------------------------------------------------------------------------------------------ servers that mean harm


class RawServer:
    """Accepts connections, reads the request and lets `reply` write whatever it likes to the socket."""

    def __init__(self, reply: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.requests: list[bytes] = []
        self._reply = reply
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            # The whole request is read: a socket that is closed with bytes unread resets the connection under its answer.
            received, wanted = b"", None
            while wanted is None or len(received) < wanted:
                part = connection.recv(65536)
                received += part
                if not part:
                    break
                if wanted is None and b"\r\n\r\n" in received:
                    head = received.split(b"\r\n\r\n")[0]
                    length = re.search(rb"(?im)^content-length: *(\d+)", head)
                    wanted = len(head) + 4 + (int(length[1]) if length else 0)
            self.requests.append(received)
            self._reply(connection)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def raw() -> Iterator[Callable[..., RawServer]]:
    """Makes servers that send given bytes, and then others one by one until the client has gone."""
    running: list[RawServer] = []

    def make(content: bytes, dripped: bytes = b"") -> RawServer:
        def reply(connection: socket.socket) -> None:
            connection.sendall(content)
            for k in itertools.count() if dripped else ():  # until the client goes away
                connection.sendall(dripped if len(dripped) > 20 else dripped[k % len(dripped) :][:1])
                time.sleep(0.01)

        running.append(RawServer(reply))
        return running[-1]

    yield make
    for one in running:
        one.close()


@pytest.mark.parametrize(
    ("content", "dripped"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
        (b"", b"HTTP/1.1 200 OK"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 2000\r\n\r\n", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000000\r\n\r\n", b" "),
    ],
    ids=["headers", "status line", "body of an error", "size of a chunk", "100 Continue", "body"],
)
def test_the_deadline_holds_whatever_is_dripped(raw, pauses, monkeypatch, content, dripped):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    dripping = raw(content, dripped)
    client = ChatClient(dripping.url, timeout_s=0.3, attempts=2, sleep=pauses.append)
    with pytest.raises((ServerError, ExpertError), match="time-out: no whole answer within"):
        client.complete({})
    assert client.budget.requests == 2
    for thread in threading.enumerate():  # they end as well, for their connections are shut down
        if thread.name == "http":
            thread.join(HANG_S)


@pytest.mark.parametrize(
    "header",
    [
        b"Retry-After: 99999999999999999999", b"Retry-After: -5", b"Retry-After: nan", b"Retry-After: inf",
        b"Retry-After: Fri, 31 Dec 99999999999999999999 23:59:59 GMT", b"Retry-After: \xff\xfe;;",
        b"Retry-After: Fri, 31 Dec 2030 23:59:59 +99999999999999999999", b"Retry-After: Fri, 31 Dec 9999 23:59:59 -9999",
        b"Retry-After: " + b"9" * 5000, b"Retry-After: 1\x1c", b"Retry-After: \x1d5", b"Retry-After: \xc2\xb2",
    ],
)  # fmt: skip
def test_a_pause_that_cannot_be_is_the_clients_own(raw, pauses, monkeypatch, header):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = raw(b"HTTP/1.1 429 X\r\n" + header + b"\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(ServerError, match="HTTP 429"):
        ChatClient(server.url, timeout_s=HANG_S, attempts=2, sleep=pauses.append).complete({})
    assert 0.5 <= pauses[0] <= 1.5


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 5000, b"-5", b"0x10", b"1, 2"])
def test_a_length_that_is_no_number_never_escapes(raw, pauses, monkeypatch, length):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + said("fine"))
    client = ChatClient(server.url, timeout_s=HANG_S, attempts=1, sleep=pauses.append)
    if b"," in length:  # two lengths: where the next answer begins is not known
        with pytest.raises(ExpertError, match="Content-Length contained multiple unmatching values"):
            client.complete({})
    else:
        assert client.complete({})["choices"][0]["message"]["content"] == "fine"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000, b'{"choices":' * 50_000, b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc", b"HTTP/1.1 000 X\r\n\r\n", b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc", b"HTTP/1.1 204 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 200_000, b"HTTP/1.1 200 OK\r\n\r\n\xff\xfe", b"\x00" * 100,
    ],
    ids=range(12),
)  # fmt: skip
def test_whatever_is_sent_only_documented_errors_come(raw, pauses, monkeypatch, content):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises((ServerError, ExpertError)) as caught:
        ChatClient(raw(content).url, timeout_s=HANG_S, attempts=2, sleep=pauses.append).complete({})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_no_proxy_sees_what_goes_to_an_http_server(server, raw, pauses, monkeypatch):
    proxy = raw(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ChatClient(server.url, timeout_s=HANG_S, attempts=1, sleep=pauses.append).complete({})
    assert len(server.requests) == 1
    assert not proxy.requests


def test_a_proxy_only_carries_what_is_encrypted(raw, pauses, monkeypatch):
    proxy = raw(b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setenv("https_proxy", proxy.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ExpertError, match=r"no server answers at https://gpu\.example\.org"):
        ChatClient("https://gpu.example.org/v1", timeout_s=HANG_S, attempts=1, sleep=pauses.append).complete({"x": 1})
    assert proxy.requests[0].startswith(b"CONNECT gpu.example.org:443")
    assert KEY.encode() not in proxy.requests[0]
    monkeypatch.setenv("https_proxy", "socks9://x:y")
    with pytest.raises(ExpertError, match="https_proxy: expected"):
        ChatClient("https://gpu.example.org/v1")


@pytest.mark.parametrize("place", range(150, 201, 10))
def test_no_part_of_the_key_is_in_a_message_that_is_cut(raw, pauses, monkeypatch, place):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for ending in (KEY, KEY[:12]):  # whole, or cut by the server
        for head in (b"HTTP/1.1 401 X\r\n\r\n", b"HTTP/1.1 200 X\r\n\r\n"):
            server = raw(head + b"x" * place + ending.encode())
            with pytest.raises(ServerError) as caught:
                ChatClient(server.url, timeout_s=HANG_S, attempts=1, sleep=pauses.append).complete({})
            assert KEY[:4] not in str(caught.value)


def test_an_echoed_key_is_not_kept(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    spelled = [(piece, {piece: 1.0}) for piece in (KEY[:10], KEY[10:])]
    server.answer = lambda _, n: (200, {}, said(f"your key is {KEY}" if n == 1 else "hm", None if n == 1 else spelled))
    for seed in (1, 2):
        (answer,) = vlm(server, tmp_path).words([photo(seed=seed)], [people(1)])
        assert KEY not in repr(answer)
    stored = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert len(stored) == 2
    assert not any(KEY in text or KEY[10:] in text for text in stored)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "nul\0"[:3] + "\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_without_telling_it(server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ExpertError, match="OPENAI_API_KEY: expected a key of printable ASCII") as caught:
        ChatClient(server.url)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://host/v1?key=abc", "http://host:99999999/v1", "http://[::1/v1", "http://h/v1#x"]
)
def test_further_urls_that_cannot_be_are_refused(url):
    with pytest.raises(ExpertError, match=r"words\.url"):
        ChatClient(url)


@pytest.mark.parametrize(
    "logprobs",
    [
        5, [5], {"content": 5}, {"content": [5]}, {"content": [{"token": 5, "logprob": 0}]}, {"content": {"a": 1}},
        {"content": [{"token": "a", "logprob": 10**400}]}, {"content": [{"token": "a", "logprob": float("nan")}]},
        {"content": [{"token": "a", "logprob": 1e308}]}, {"content": [{"token": "a", "logprob": "0"}]},
        {"content": [{"token": "a", "logprob": 0, "top_logprobs": 7}]}, {"content": [{"token": "a", "top_logprobs": [7]}]},
    ],
)  # fmt: skip
def test_log_probabilities_of_another_form_are_as_good_as_none(server, tmp_path, logprobs):
    choice = {"message": {"content": '{"age": "child", "gender": "male"}'}, "logprobs": logprobs}
    server.answer = lambda *_: (200, {}, json.dumps({"choices": [choice]}).encode())
    (answer,) = vlm(server, tmp_path).words([photo()], [people(1)])
    np.testing.assert_array_equal(answer.probabilities["age"], [[0, 0, 1, 0, 0, 0]])


@pytest.mark.parametrize(
    "replies", [5, [], [5], [{"text": 5, "tokens": []}], [{"text": "x", "tokens": [["a", [["b", "c"]]]]}]]
)
def test_a_cache_file_of_another_form_is_asked_again(server, tmp_path, replies):
    server.answer = lambda *_: (200, {}, said('{"age": "adult", "gender": "male"}'))
    vlm(server, tmp_path).words([photo()], [people(1)])
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "replies": replies}))
    (answer,) = vlm(server, tmp_path).words([photo()], [people(1)])
    assert answer.words["age"] == ["adult"]
    assert len(server.requests) == 2


def test_halves_of_characters_do_not_reach_what_is_stored(server, tmp_path):
    server.answer = lambda *_: (200, {}, b'{"choices": [{"message": {"content": "adult \\ud800"}}]}')
    (answer,) = vlm(server, tmp_path).words([photo()], [people(1)])
    assert answer.answers == ["adult ?"]


@pytest.mark.parametrize("text", ["{" * 300_000, '{"a":' * 60_000, "child " * 50_000, "not " * 75_000, "x" * 3_000_000])
def test_an_endless_answer_says_nothing(text):
    assert read_answer(text, ATTRIBUTES) == {"age": "unknown", "gender": "unknown"}
    assert read_answer(text[:19_000], ATTRIBUTES)["gender"] == "unknown"
