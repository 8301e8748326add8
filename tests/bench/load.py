"""The C tools: compiled on the spot; one run of the load generator and what it measured."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from machine import BenchError, pin

HERE = Path(__file__).resolve().parent
PATH = "/v1/chat/completions"
MODEL = "mock-model"


@dataclass(frozen=True, slots=True)
class Load:
    """The measurements of the load generator. Times are microseconds.

    rps, p50, p99, ttfb50, tr50 and tr99 belong to the measured seconds; issued, ok and errors to the
    whole run with its warm-up and the requests that were still under way at its end.
    """

    rps: float
    p50: float
    p99: float
    ttfb50: float
    tr50: float
    tr99: float
    issued: int
    ok: int
    errors: int
    non200: int
    events: int

    @classmethod
    def parse(cls, text: str) -> "Load":
        measured = json.loads(text)
        return cls(**{field.name: measured[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class Tools:
    """The compiled load generator and mock upstream, and the core they run on."""

    loadgen: Path
    mockup: Path
    core: int | None

    @classmethod
    def compile(cls, compiler: str, work: Path, core: int | None) -> "Tools":
        for name in ("loadgen", "mockup"):
            command = [compiler, "-O2", "-o", str(work / name), str(HERE / f"{name}.c")]
            built = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if built.returncode:
                raise BenchError(f"{name}.c does not compile:\n{built.stderr}")
        return cls(loadgen=work / "loadgen", mockup=work / "mockup", core=core)

    def drive(
        self,
        *,
        port: int,
        path: str = PATH,
        body: Path,
        connections: int,
        seconds: float,
        warmup: float = 0.0,
        transit: bool = False,
        once: bool = False,
        key: str | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Load:
        """Run the load generator to its end; `meanwhile` is called about ten times a second."""
        argv = [str(self.loadgen), "--port", str(port), "--path", path, "--body", str(body)]
        argv += ["--conns", str(connections), "--seconds", str(seconds), "--warmup", str(warmup)]
        argv += ["--transit", str(int(transit)), "--once", str(int(once))]
        if key:
            argv += ["--header", f"Authorization: Bearer {key}"]
        until = time.monotonic() + seconds + warmup + 15
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                pin([process.pid], self.core)
                while time.monotonic() < until:
                    try:
                        process.wait(0.1)
                        break
                    except subprocess.TimeoutExpired:
                        meanwhile()
                else:
                    raise BenchError(f"the load generator did not end (port {port})")
                output, complaint = process.communicate()
            finally:
                if process.poll() is None:
                    process.kill()
        if process.returncode:
            raise BenchError(f"the load generator failed: {complaint.strip()}")
        return Load.parse(output)


def write_bodies(work: Path) -> dict[str, Path]:
    """The requests sent: about 0.9 KB, plain and streamed."""
    prompt = "The harbour was quiet and the lamps were lit along the quay. " * 12
    plain = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": f"Summarise this in three sentences and keep the names. {prompt}"},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    streamed = plain | {"stream": True, "stream_options": {"include_usage": True}}
    files = {"plain": work / "plain.json", "streamed": work / "streamed.json"}
    files["plain"].write_text(json.dumps(plain))
    files["streamed"].write_text(json.dumps(streamed))
    return files
