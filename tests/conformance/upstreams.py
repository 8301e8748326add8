"""The compliance suite against a gateway before scripted upstreams, by open_responses.sh: SUITE_DIR [KIND …].

One line for each kind of upstream with its score, and what was not passed. Ends all that it starts.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway.protocol.json.types import JsonObject
from tests.e2e.gateway import MASTER_KEY, REPO, Gateway
from tests.fakes.thinking import Thinking
from tests.fakes.upstream import CREDENTIAL

SCRIPT = Path(__file__).with_name("open_responses.sh")
AWS = {"aws_access_key_id": "AKID", "aws_secret_access_key": CREDENTIAL, "aws_region_name": "eu-west-1"}
#: kind → provider and upstream model, the base below the bare host, its other parameters
KINDS: dict[str, tuple[str, str, JsonObject]] = {
    "openai-chat": ("openai/gpt-4o", "/v1", {}),
    "azure-chat": ("azure/gpt-4o", "", {"api_version": "2024-10-21"}),
    "anthropic": ("anthropic/claude-sonnet-4-5", "", {}),
    "anthropic-thinking": ("anthropic/claude-sonnet-4-5~thinks", "", {}),
    "gemini": ("gemini/gemini-2.5-flash", "/v1beta", {}),
    "bedrock": ("bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0", "", AWS),
    "ollama": ("ollama/qwen3", "", {}),
    "vllm": ("hosted_vllm/Qwen/Qwen3-8B", "/vllm/v1", {}),
    "xinference": ("xinference/qwen2.5-instruct", "/xinference/v1", {}),
    "mindie": ("mindie/qwen3-32b", "/mindie/v1", {}),
    "lightllm": ("lightllm/qwen2.5-7b", "/lightllm/v1", {}),
}
BUILT_IN = "tollgate-echo"
#: An upstream that speaks the Responses API itself: the same gateway once more, before the chat upstream.
NATIVE = "responses-native"


def served(root: str, own_url: str) -> JsonObject:
    rows = [
        {"model_name": kind, "litellm_params": {"model": model, "api_base": root + base, "api_key": CREDENTIAL, **more}}
        for kind, (model, base, more) in KINDS.items()
    ]
    rows.append({"model_name": BUILT_IN, "litellm_params": {"model": "mock/echo"}})
    again = {"model": "openai_compatible/openai-chat", "api_base": f"{own_url}/v1", "api_key": MASTER_KEY}
    rows.append({"model_name": NATIVE, "litellm_params": again, "model_info": {"capabilities": {"responses": True}}})
    return {"model_list": rows}


def scored(gateway: Gateway, suite: str, kind: str) -> JsonObject:
    environment = {**os.environ, "GATEWAY_URL": gateway.url, "API_KEY": MASTER_KEY, "MODEL": kind}
    run = subprocess.run([str(SCRIPT), suite, "--json"], env=environment, capture_output=True, text=True, timeout=300)
    try:
        report: JsonObject = json.loads(run.stdout)
    except ValueError:
        raise SystemExit(f"the suite did not run:\n{run.stdout}\n{run.stderr}") from None
    return report


def main(suite: str, wanted: list[str]) -> int:
    kinds = [BUILT_IN, *KINDS, NATIVE]
    if unknown := set(wanted) - set(kinds):
        raise SystemExit(f"no such kind: {', '.join(unknown)}; there are {', '.join(kinds)}")
    has_failed = False
    with tempfile.TemporaryDirectory() as home, Thinking() as upstream:
        gateway = Gateway(Path(home))
        config = served(upstream.root, gateway.url)
        (path := Path(home) / "config.yaml").write_text(json.dumps(config))
        gateway.env["TOLLGATE_CONFIG"] = str(path)
        try:
            gateway.start()
            for kind in wanted or kinds:
                report = scored(gateway, suite, kind)
                counts = report["summary"]
                print(f"{kind:<20}{counts['passed']:>3} of {counts['total']}", flush=True)
                for result in report["results"]:
                    if result["status"] != "passed":
                        has_failed = True
                        print(f"    {result['id']}: {'; '.join(result.get('errors') or [])[:600]}", flush=True)
            gateway.stop()
        finally:
            gateway.close()
    return int(has_failed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    os.chdir(REPO)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
