"""A real HTTP server that speaks OpenAI's chat protocol, on a free port: what it answers is what the test says."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS_IN, TOKENS_OUT = 1_000, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request as it came in."""

    number: int  # from 1
    arrived: float
    headers: Mapping[str, str]  # by their names in small letters
    body: dict[str, Any]

    @property
    def text(self) -> str:
        text: str = self.body["messages"][0]["content"][0]["text"]
        return text

    @property
    def query(self) -> str:
        return self.text.partition("Search Query: ")[2].partition("\n")[0]

    @property
    def images(self) -> list[str]:
        return [part["image_url"]["url"] for part in self.body["messages"][0]["content"][1:]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer: a status and a body, which is sent as JSON unless it is bytes already."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[Question], Reply]


def says(text: str | None, **changes: Any) -> Reply:
    """A chat completion of 1,000 tokens in and 10 out."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT}
    completion = {
        "id": "1", "object": "chat.completion", "created": 0, "model": "teacher", "usage": usage,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
    }  # fmt: skip
    return Reply(body={**completion, **changes})


def refuses(status: int, message: str = "no", *, headers: Mapping[str, str] | None = None, **error: str) -> Reply:
    return Reply(status=status, headers=headers or {}, body={"error": {"message": message, **error}})


def reversed_order(question: Question) -> Reply:
    """The last candidate first."""
    letters = "ABCDEFGHIJKLMNOPQRST"[: len(question.images)]
    return says(" > ".join(f"[{letter}]" for letter in reversed(letters)))


class TeacherEndpoint:
    """What came in, and how many requests were being answered at once."""

    def __init__(self, answer: Answer) -> None:
        self.questions: list[Question] = []
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._answer = answer
        self._lock = threading.Lock()

    def count(self, query: str) -> int:
        return sum(question.query == query for question in self.questions)

    def reply(self, headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            question = Question(number=len(self.questions) + 1, arrived=time.monotonic(), headers=headers, body=body)
            self.questions.append(question)
        try:
            return self._answer(question)
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def teacher_endpoint(answer: Answer = reversed_order) -> Iterator[TeacherEndpoint]:
    endpoint = TeacherEndpoint(answer)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.endpoint = endpoint
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    endpoint: TeacherEndpoint


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self._send(refuses(404, "no such path"))
            return
        self._send(self.server.endpoint.reply({name.lower(): value for name, value in self.headers.items()}, body))

    def _send(self, reply: Reply) -> None:
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        try:
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client was killed or has given up
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass
