"""A chat endpoint on this machine that writes profiles by a rule, or answers by a script, and keeps what it was sent."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Asked = dict[str, Any]
Answer = Callable[[Asked], str | bytes | int]  # a message; a whole body; a status of refusal


def asked_of(body: Asked) -> Asked:
    """What a profile is to be written from: {"item": ...} or {"liked": [...]}."""
    found: Asked = json.loads(body["messages"][1]["content"])
    return found


def profile_of(asked: Asked) -> str:
    if "item" in asked:
        return f"People who like a quiet evening would enjoy this: {asked['item'][:150]}"
    return f"This person likes {' and '.join(each['title'] for each in asked['liked'])}, and looks for more of the kind."


def well(body: Asked) -> str:
    return json.dumps({"profile": profile_of(asked_of(body))})


def completion(message: str | None, **more: Any) -> bytes:
    """A whole answer: 10 tokens read, 5 written."""
    choice = {"message": {"role": "assistant", "content": message}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}} | more).encode()


class Chat:
    """``answer`` may be put in at any time; ``bodies`` and ``keys`` are of the requests so far."""

    def __init__(self) -> None:
        self.answer: Answer = well
        self.bodies: list[Asked] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.keys.append(self.headers["Authorization"])
                given = outer.answer(body)
                content = completion(given) if isinstance(given, str) else b"no" if isinstance(given, int) else given
                with contextlib.suppress(OSError):  # who asked is gone
                    self.send_response(given if isinstance(given, int) else 200)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def of_items(self) -> list[str]:
        return [asked["item"] for asked in map(asked_of, self.bodies) if "item" in asked]

    def of_users(self) -> list[list[Asked]]:
        return [asked["liked"] for asked in map(asked_of, self.bodies) if "liked" in asked]

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"url": self.url, "model": "toy", "retries": 0, "first_wait": 0.001, **more}

    def file(self, folder: Path, **more: Any) -> Path:
        """A file with these settings of a writer."""
        path = folder / "writer.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings(**more).items()]
        path.write_text("\n".join(["[writer]", *lines, ""]))
        return path


@contextlib.contextmanager
def chatting() -> Iterator[Chat]:
    chat = Chat()
    try:
        yield chat
    finally:
        chat.server.shutdown()
        chat.server.server_close()
