"""Files that the suites of the config.yaml share, and how its findings are looked up."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

from gateway.config import (
    Config,
    DeploymentEntry,
    Report,
    examine_config,
)

REALISTIC = """
model_list:
  - model_name: gpt-3.5-turbo
    litellm_params:
      model: ollama/qwen2.5:7b-instruct
      api_base: http://localhost:11434
      rpm: 60
    model_info: {mode: chat, max_tokens: 8192}
  - model_name: gpt-3.5-turbo
    litellm_params:
      model: xinference/qwen2.5-instruct
      api_base: http://127.0.0.1:9997/v1
      api_key: none
      rpm: 180
  - model_name: bge-m3
    litellm_params: {model: xinference/bge-m3, api_base: "http://127.0.0.1:9997/v1"}
    model_info: {mode: embedding}
  - model_name: qwen-mindie
    litellm_params: &local
      model: mindie/Qwen2.5-72B-Instruct
      api_base: http://10.0.0.7:1025/v1
      timeout: 120
      stream_timeout: 12.5
      temperature: 0.2
  - model_name: llama-lightllm
    litellm_params:
      <<: *local
      model: lightllm/Llama-3-8B
      api_base: http://10.0.0.8:8088/v1
  - model_name: deepseek-r1
    litellm_params:
      model: hosted_vllm/deepseek-ai/DeepSeek-R1
      api_base: os.environ/VLLM_BASE
      api_key: os.environ/VLLM_KEY
      order: 1
      weight: 3
      extra_body: {chat_template_kwargs: {enable_thinking: false}}
      extra_headers: {X-Route: blue, Authorization: os.environ/VLLM_AUTH}
  - model_name: gpt-4o
    litellm_params:
      model: gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      organization: org-1
      input_cost_per_token: 0.00000015
      output_cost_per_token: 6e-7
      cache_read_input_token_cost: 7.5e-8
    model_info:
      id: openai-main
      base_model: gpt-4o
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: os.environ/DATABASE_URL
litellm_settings: {drop_params: true, num_retries: 3}
router_settings: {routing_strategy: simple-shuffle}
environment_variables:
  VLLM_BASE: http://vllm.internal:8000/v1
"""
ENVIRON = {
    "VLLM_KEY": "sk-vllm-secret-1",
    "VLLM_AUTH": "Bearer secret-2",
    "OPENAI_API_KEY": "sk-openai-secret-3",
    "LITELLM_MASTER_KEY": "sk-master-secret-4",
    "DATABASE_URL": "postgresql://u:secret-5@db/x",
}

Write = Callable[..., Path]


def item(params: str = "", info: str = "", *, model: str = "hosted_vllm/m", name: str = "m") -> str:
    """A file with one deployment, `params` and `info` being further lines of it."""
    lines = [
        "model_list:",
        f"  - model_name: {name}",
        "    litellm_params:",
        f"      model: {model}" if model else "",
        indent(dedent(params), " " * 6),
        "    model_info:" if info else "",
        indent(dedent(info), " " * 6),
    ]
    return "\n".join(lines) + "\n"


def only(config: Config) -> DeploymentEntry:
    (entry,) = config.deployments
    return entry


def reports_of(config: Config) -> dict[str, Report]:
    return {report.place: report for report in config.reports}


def problems_of(path: Path, **environ: str) -> dict[str, str]:
    return {problem.place: problem.message for problem in examine_config(path, environ).problems}
