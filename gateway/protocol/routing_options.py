"""The routing options of a request body: retries, fallbacks and time, as clients of LiteLLM send them. They are for the
gateway alone: no upstream gets them.

Source: https://docs.litellm.ai/docs/proxy/reliability. Units: seconds, counts.
"""

from collections.abc import Mapping, Sequence

from gateway.protocol.fields import Check, boolean, integer, nonempty_text
from gateway.protocol.json.types import Json

MAX_FALLBACKS = 10  # model groups, for one error
MAX_ROWS = 100  # of a table
MAX_NAME_CHARS = 255
MAX_RETRIES = 10
MAX_TIMEOUT_S = 1e6
#: The model group of a table whose fallbacks are those of every group without a row.
ANY_GROUP = "*"
SHAPE = "it must be an array of model names, or of objects that map a model to an array of names"


def find_fallbacks(value: Json, groups: Sequence[str]) -> tuple[str, ...]:
    """The names that a checked value has for a request of these groups, which are the names of one: all of a list, the
    first row of a table that has one of them."""
    rows = value if type(value) is list else [value]
    if all(_names_model(row) for row in rows):
        return tuple(dict.fromkeys(row if type(row) is str else row["model"] for row in rows))
    for group in (*groups, ANY_GROUP):
        for row in rows:
            if group in row:
                return tuple(dict.fromkeys(_as_list(row[group])))
    return ()


def _fallbacks(value: Json) -> str | None:
    rows = value if type(value) is list else [value]
    if type(value) is not list and type(value) is not dict:
        return SHAPE
    if len(rows) > MAX_ROWS:
        return f"it must have at most {MAX_ROWS} elements"
    for index, row in enumerate(rows):
        problem = _row(row)
        if problem:
            return f"element {index}: {problem}"
    names = [_names_model(row) for row in rows]
    if any(names) and not all(names):
        return "it must hold either names or objects that map a model to names"
    return f"it must name at most {MAX_FALLBACKS} models" if len(names) > MAX_FALLBACKS and all(names) else None


def _row(row: Json) -> str | None:
    if type(row) is str:
        return _name(row)
    if type(row) is not dict:
        return SHAPE
    if _names_model(row):
        for name in row:
            if name != "model":
                return f"'{name[:40]}' is not supported: the request itself goes to the fallback"
        return _name(row["model"])
    for value in row.values():
        names = _as_list(value)
        if type(names) is not list or any(_name(name) for name in names):
            return SHAPE
        if len(names) > MAX_FALLBACKS:
            return f"it must name at most {MAX_FALLBACKS} models"
    return None


def _names_model(row: Json) -> bool:
    return type(row) is str or (type(row) is dict and type(row.get("model")) is str)


def _as_list(value: Json) -> Json:
    return [value] if type(value) is str else value


def _name(value: Json) -> str | None:
    return nonempty_text(value) or (SHAPE if len(value) > MAX_NAME_CHARS else None)


def _table(value: Json) -> str | None:
    """A check of fallbacks that only tables can have."""
    rows = value if type(value) is list else [value]
    return SHAPE if any(_names_model(row) for row in rows) else _fallbacks(value)


def _seconds(value: Json) -> str | None:
    is_number = type(value) is int or type(value) is float
    return None if is_number and 0 < value < MAX_TIMEOUT_S else "it must be a positive number of seconds"


CHECKS: Mapping[str, Check] = {
    "fallbacks": _fallbacks,
    "context_window_fallbacks": _fallbacks,
    "content_policy_fallbacks": _fallbacks,
    "context_window_fallback_dict": _table,  # {model: model}
    "disable_fallbacks": boolean,
    "num_retries": integer(0, MAX_RETRIES),
    "timeout": _seconds,
}
OPTIONS = frozenset(CHECKS)
#: Those that name models.
FALLBACK_FIELDS = frozenset(
    {"fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "context_window_fallback_dict"}
)
