"""The openai back end against a small local server, which answers, fails and refuses as it is told to."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.evaluation import main, refusal, rows_of, write_benchmark

from redi.text.prompts import THINK


class Server(ThreadingHTTPServer):
    """Numbers its answers; remembers what it was asked, and how many requests it had at a time."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.lock = threading.Lock()
        self.asked: list[dict] = []
        self.at_a_time = self.most_at_a_time = 0
        self.failures = 0  # requests to answer with a temporary error
        self.refuse_after = 10_000
        self.empty = False
        self.token_ids: list[int] | None = None
        self.together = threading.Barrier(1)

    def handle_error(self, *_):
        """A client that hung up is no error; the default prints a traceback to the stderr that tests read."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers["Authorization"] != "Bearer right":
            self.reply(401, {"error": {"message": "wrong key"}})
        else:
            self.reply(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            if server.failures:
                server.failures -= 1
                return self.reply(429, {"error": {"message": "later"}})
            server.asked.append(asked)
            number = len(server.asked)
            server.at_a_time += 1
            server.most_at_a_time = max(server.at_a_time, server.most_at_a_time)
        server.together.wait(20)
        if number > server.refuse_after:
            self.reply(400, {"error": {"message": "I have had enough"}})
        elif server.empty:
            self.reply(200, {})
        elif self.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": "It is \\boxed{3}.", "reasoning_content": f"Hm {number}.\n"}
            self.answer({"message": message, "finish_reason": "stop"})
        else:
            extra = {} if server.token_ids is None else {"token_ids": server.token_ids}
            self.answer({"text": f"Answer {number}", "finish_reason": "length", **extra})
        with server.lock:
            server.at_a_time -= 1

    def answer(self, choice: dict) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        self.reply(200, {"id": "x", "object": "x", "created": 0, "model": "x", "choices": [choice], "usage": usage})


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def command(server, tiny_model, tmp_path) -> list[str]:
    benchmark = write_benchmark(tmp_path / "small.jsonl", 3)
    command = [
        "generate",
        "--model",
        str(tiny_model),
        "--benchmark",
        str(benchmark),
        "--backend",
        "openai",
        "--n",
        "2",
    ]
    command += ["--max-tokens", "9", "--prompt", "bare", "--served-model-name", "tiny", "--base-url", server.url]
    return [*command, "--output", str(tmp_path / "out")]


def test_completions_get_token_ids_and_nothing_is_left_to_the_server(command, server, tmp_path):
    from transformers import AutoTokenizer

    server.failures = 3  # which is tried again
    main([*command, "--force-think", "--temperature", "0.7"])
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    assert sorted(row["response"] for row in rows) == [f"Answer {number}" for number in range(1, 7)]
    assert {(row["finish_reason"], row["num_tokens"]) for row in rows} == {("length", 7)}
    tokenizer = AutoTokenizer.from_pretrained(command[2])
    stops = sorted(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    expected = {"model": "tiny", "temperature": 0.7, "top_p": 0.95, "max_tokens": 9, "stop_token_ids": stops}
    expected |= {"top_k": -1, "min_p": 0, "repetition_penalty": 1, "skip_special_tokens": False}
    for asked in server.asked:
        assert expected.items() <= asked.items() and "seed" not in asked
        assert tokenizer.decode(asked["prompt"]).endswith(f"<|im_start|>assistant\n{THINK}")
    prompts = [tuple(asked["prompt"]) for asked in server.asked]
    assert sorted(map(prompts.count, set(prompts))) == [2, 2, 2]


def test_token_ids_that_a_server_returns_are_decoded_here(command, server, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(command[2])
    server.token_ids = tokenizer("</think> 3<|im_end|>").input_ids
    main(command)
    for row in rows_of(tmp_path / "out" / "generations.jsonl"):
        assert (row["response"], row["finish_reason"]) == ("</think> 3", "stop")
        assert row["num_tokens"] == len(server.token_ids)


def test_only_missing_samples_are_asked_for_and_seeds_only_if_wanted(command, server, tmp_path):
    command += ["--seed", "3"]
    main(command)
    assert len({asked["seed"] for asked in server.asked}) == 6
    main([*command, "--n", "5"])
    assert len(server.asked) == 15 == len({asked["seed"] for asked in server.asked})
    assert len(rows_of(tmp_path / "out" / "generations.jsonl")) == 15


def test_requests_are_sent_together_up_to_a_limit(command, server):
    server.together = threading.Barrier(3)  # none is answered before three are there
    main([*command, "--concurrency", "3"])
    assert server.most_at_a_time == 3


def test_chat_sends_the_message_and_keeps_the_thought(command, server, tmp_path):
    command[2] = "tiny"
    main([*command, "--api", "chat"])
    rows = rows_of(tmp_path / "out" / "generations.jsonl")
    assert {row["response"][:10] for row in rows} == {"<think>\nHm"}
    assert {row["response"][11:] for row in rows} == {f"{n}.\n</think>\n\nIt is \\boxed{{3}}." for n in range(1, 7)}
    problem = "What is 1 + 2? "
    assert {row["prompt"] for row in rows} == {problem, 2 * problem, 3 * problem}
    assert {json.dumps(asked["messages"]) for asked in server.asked} == {
        json.dumps([{"role": "user", "content": times * problem}]) for times in (1, 2, 3)
    }
    fields = {"model", "messages", "temperature", "top_p", "max_tokens"}
    assert {tuple(sorted(asked)) for asked in server.asked} == {tuple(sorted(fields))}


def test_a_refused_request_keeps_what_there_is(command, server, tmp_path, capsys):
    server.refuse_after = 4
    error = refusal([*command, "--concurrency", "1"], capsys)
    assert "refuses a request" in error and "I have had enough" in error
    assert len(rows_of(tmp_path / "out" / "generations.jsonl")) == 4
    server.refuse_after = 10_000
    main(command)
    assert len(rows_of(tmp_path / "out" / "generations.jsonl")) == 6
    assert len(server.asked) in (7, 8)  # four, one or two that were refused, two


def test_what_is_wrong_with_a_server_is_one_line(command, server, monkeypatch, capsys, tmp_path):
    assert "serves no 'big'; name one with --served-model-name: tiny" in refusal(
        [*command, "--served-model-name", "big"], capsys
    )
    server.empty = True
    assert "the server sent no answer" in refusal([*command[:-1], str(tmp_path / "a")], capsys)
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    assert "refuses the key; set OPENAI_API_KEY" in refusal([*command[:-1], str(tmp_path / "b")], capsys)
    error = refusal([*command[:-1], str(tmp_path / "c"), "--base-url", "http://127.0.0.1:9/v1"], capsys)
    assert "http://127.0.0.1:9/v1 cannot be reached" in error and error.count("\n") == 1
    assert not list(tmp_path.glob("[bc]")) and not (tmp_path / "out").exists()  # nothing is begun
