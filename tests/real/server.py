"""A real inference server, llama-cpp-python's, with tiny random models that are made on the spot."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.gateway import eventually
from tests.fakes.ports import free_port

API_KEY = "sk-real-8Qn3VwYt5KzLx2Bd"
CHAT, TOOLS, EMBEDDING = "tiny-chat", "tiny-tools", "tiny-embedding"
CONTEXT = 4096
VECTOR_SIZE = 64  # the models' width
MODEL_MAKER = Path(__file__).with_name("model.py")


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    log: Path

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class RunningServer:
    """A context manager; its process ends with it. Runs on REAL_SERVER_PYTHON, where llama-cpp-python is installed."""

    def __init__(self, home: Path) -> None:
        self._python = os.environ["REAL_SERVER_PYTHON"]
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        port = free_port()
        config = self._home / "server.json"
        config.write_text(json.dumps(self._configuration(port)), encoding="utf-8")
        server = Server(f"http://127.0.0.1:{port}/v1", self._home / "server.log")
        with server.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "llama_cpp.server"],
                env={**os.environ, "CONFIG_FILE": str(config), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: self._is_ready(server), within_s=60, what="the inference server answers")
        return server

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def _is_ready(self, server: Server) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the server ended with {self._process.returncode}:\n{server.output()[-4000:]}")
        try:
            answer = httpx.get(f"{server.url}/models", headers={"authorization": f"Bearer {API_KEY}"})
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def _configuration(self, port: int) -> dict[str, Any]:
        chat = self._made("chat.gguf")
        embedding = self._made("embedding.gguf", "--embedding")
        common: dict[str, Any] = {"n_ctx": CONTEXT, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
        return {
            "host": "127.0.0.1",
            "port": port,
            "api_key": API_KEY,
            "models": [
                {"model_alias": CHAT, "model": chat, **common},
                {"model_alias": TOOLS, "model": chat, "chat_format": "chatml-function-calling", **common},
                {"model_alias": EMBEDDING, "model": embedding, "embedding": True, **common},
            ],
        }

    def _made(self, name: str, *options: str) -> str:
        path = str(self._home / name)
        subprocess.run([self._python, str(MODEL_MAKER), path, *options], check=True, timeout=60)
        return path
