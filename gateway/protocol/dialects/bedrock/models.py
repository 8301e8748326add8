"""The features that Converse offers for a model, by the model's name, where a deployment has no flag for them. An
unknown model may do everything; the upstream refuses what it cannot do.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-supported-models-features.html and
…/APIReference/API_runtime_ToolChoice.html; calls that Llama does not stream: github.com/earendil-works/pi/issues/3739;
its choice of tools: github.com/strands-agents/harness-sdk/issues/1241; Llama 3.2's small models:
github.com/epam/ai-dial-adapter-bedrock/issues/181; stop sequences: github.com/crewAIInc/crewAI/issues/3317 and
github.com/langgenius/dify-official-plugins/issues/1767.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Features:
    tools: bool = True
    forces_tools: bool = True  # takes the choices `any` and `tool`
    streams_tools: bool = True
    documents: bool = True
    stop: bool = True


ALL = Features()
#: (pattern of a model's name, features): the first match counts.
RULES: tuple[tuple[re.Pattern[str], Features], ...] = (
    (re.compile(r"amazon\.nova-micro"), Features(documents=False)),
    (re.compile(r"meta\.llama(?:2|3-(?:8|70)b|3-2-[13]b)"), Features(tools=False)),
    (re.compile(r"meta\.llama"), Features(forces_tools=False, streams_tools=False)),
    (re.compile(r"openai\.gpt-oss|qwen\.qwen"), Features(stop=False)),
)


def features_of(model: str) -> Features:
    return next((features for pattern, features in RULES if pattern.search(model.lower())), ALL)
