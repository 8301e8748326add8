"""Addresses of Azure's clients and of OpenAI's old ones, as the gateway's own path and the model that they name.

Sources: https://learn.microsoft.com/azure/ai-foundry/openai/reference and `openai.lib.azure` 3.51.0, which sends chat,
completions and embeddings to `/openai/deployments/{model}/…`, and all else to `/openai/…`. The engines are OpenAI's own
addresses of 2022.
`api-version` is not read: every version gets the same answers.
"""

import re
from typing import NamedTuple

from gateway.edge.asgi_types import Scope
from gateway.protocol.errors import NotFound
from gateway.protocol.json.body import add_members, parse_object, replace_member
from gateway.protocol.unserved_paths import refuse_unserved

#: The beginnings of all aliases.
PREFIXES = ("/openai/", "/engines/", "/v1/engines/")
#: The beginnings of the paths that name a model. A model's name may contain a slash.
MODEL_PREFIXES = ("/openai/deployments/", "/engines/", "/v1/engines/")
_NAMED = re.compile(
    r"/(?:openai/deployments|(?:v1/)?engines)/(.+?)"
    r"(/chat/completions|/completions|/embeddings|/responses(?:/[^/]+(?:/(?:cancel|input_items))?)?)/?"
)
_PATHS = "chat/completions|completions|embeddings|responses|conversations|models"
_UNNAMED = re.compile(rf"/openai(?:/v1)?(/(?:{_PATHS})(?:/.*)?)")
_AZURE_ROOT = re.compile(r"/openai/(?:v1|deployments/[^/]+)")
#: The member of the scope that holds the model of the address.
MODEL = "tollgate.model"


class Alias(NamedTuple):
    path: str
    model: str = ""


def resolve_alias(path: str) -> Alias | None:
    """None for a path that is no alias, and for one that the gateway does not serve."""
    if not path.startswith(PREFIXES):
        return None
    named = _NAMED.fullmatch(path)
    if named is not None:
        return Alias(f"/v1{named[2]}", named[1])
    unnamed = _UNNAMED.fullmatch(path)
    return Alias(f"/v1{unnamed[1]}") if unnamed is not None else None


def resolve_scope(scope: Scope) -> Scope | None:
    """The scope of the gateway's own path; None for a path that is no alias."""
    alias = resolve_alias(scope["path"])
    return None if alias is None else {**scope, "path": alias.path, MODEL: alias.model}


def set_model(raw: bytes, model: str) -> bytes:
    """The body with the model of the address, which wins. Raises BadRequest for a body that is no JSON object."""
    body = parse_object(raw)
    return replace_member(raw, "model", model, body) if "model" in body else add_members(raw, {"model": model})


def refuse_azure_path(path: str) -> None:
    """Raises the Fault of a path below those of Azure's that the gateway does not serve: 501 for an API that LiteLLM
    has, else Azure's 404. Returns for any other path."""
    root = _AZURE_ROOT.match(path)
    if root is not None:
        refuse_unserved(f"/v1{path[root.end() :]}")
        raise NotFound("Resource not found", code="404")
