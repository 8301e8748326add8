"""Objects of the openai package → the JSON that they were made of."""

from typing import Any

from openai import BaseModel

from gateway.protocol.json.types import Json, JsonObject


def wire_form(model: BaseModel) -> JsonObject:
    """The package reads some integers (`created_at`) as floats."""
    dumped: JsonObject = model.model_dump(mode="json", exclude_unset=True, warnings=False, by_alias=True)
    return {name: _whole(value) for name, value in dumped.items()}


def _whole(value: Any) -> Json:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(member) for name, member in value.items()}
    return [_whole(member) for member in value] if isinstance(value, list) else value
