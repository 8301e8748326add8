"""Abilities: what a request may need of a deployment, by LiteLLM's names in `model_info`.

A flag that is false takes the ability away; one that is absent says nothing, and the deployment is asked.
Source: the fields of https://github.com/BerriAI/litellm/blob/main/model_prices_and_context_window.json.
"""

from collections.abc import Mapping

from gateway.protocol.json.types import JsonMapping, JsonObject

#: {flag of model_info: ability}
ABILITY_FLAGS: Mapping[str, str] = {
    "supports_vision": "vision",
    "supports_audio_input": "audio",
    "supports_pdf_input": "pdf",
    "supports_function_calling": "tools",
    "supports_tool_choice": "tool_choice",
    "supports_response_schema": "json_schema",
}
#: LiteLLM's name of the capability `prefill`, without which no call is kept away.
PREFILL_FLAG = "supports_assistant_prefill"
GENERATION, EMBEDDINGS = "generation", "embeddings"
ALL_ABILITIES = frozenset({*ABILITY_FLAGS.values(), GENERATION, EMBEDDINGS})
#: {model_info.mode: the abilities that a deployment of this mode lacks}; any other mode says nothing.
_LACKING: Mapping[str, frozenset[str]] = {
    "embedding": frozenset({GENERATION}),
    **dict.fromkeys(("chat", "completion", "responses"), frozenset({EMBEDDINGS})),
    **dict.fromkeys(
        ("image_generation", "image_edit", "video_generation", "audio_transcription", "audio_speech", "rerank"),
        frozenset({GENERATION, EMBEDDINGS}),
    ),
}


def read_abilities(info: JsonMapping) -> frozenset[str]:
    """ALL_ABILITIES itself where nothing is taken away."""
    mode = info.get("mode")
    lacking = {ability for flag, ability in ABILITY_FLAGS.items() if info.get(flag) is False}
    if isinstance(mode, str):
        lacking |= _LACKING.get(mode, frozenset())
    return ALL_ABILITIES - lacking if lacking else ALL_ABILITIES


def find_invalid_ability(info: JsonMapping) -> str:
    """The first flag that is neither true, false nor null; empty for none."""
    return next((flag for flag in (*ABILITY_FLAGS, PREFILL_FLAG) if not isinstance(info.get(flag), bool | None)), "")


def named_capabilities(info: JsonMapping) -> JsonObject:
    """The capabilities that model_info gives by LiteLLM's names; those of its `capabilities` win."""
    prefill = info.get(PREFILL_FLAG)
    return {"prefill": prefill} if isinstance(prefill, bool) else {}
