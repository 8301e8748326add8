"""Which of a deployment's parameters are credentials, and their way into the sealed credential."""

import base64
import contextlib
import json
import re
from collections.abc import Iterator

from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import BODY_PREFIX, HEADER_PREFIX

SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password|credential|signature", re.IGNORECASE)
SECRET_FIELD = re.compile(
    r"(?:.*[_-])?(?:api_?key|key|token|access_?token|auth_?token|bearer_?token|secret|credentials?|authorization)"
    r"|.*(?:password|passphrase|secret_?key|private_?key|bearer_token_bedrock).*",
    re.IGNORECASE,
)
#: Names that the pattern matches and that hold no credential.
PLAIN_FIELDS = re.compile(r"prompt_cache_key|cache_key|(?:eos|bos|pad|stop|unk|sep|mask|cls)_token", re.IGNORECASE)
#: The user and the password in an address.
USER_IN_ADDRESS = re.compile(r"(?<=://)[^/?#\s]*@")


def is_secret_field(name: str) -> bool:
    return SECRET_FIELD.fullmatch(name) is not None and PLAIN_FIELDS.fullmatch(name) is None


def split_secrets(parameters: JsonMapping, own_secrets: frozenset[str]) -> tuple[JsonObject, dict[str, str]]:
    """The parameters without their credentials, and the credentials by the names under which they are sealed.

    `own_secrets` are the names that the providers read from a credential; an `api_key` in extra_body is a field of the
    body. A header gets HEADER_PREFIX, and any other field of the body BODY_PREFIX and its value as JSON, so that both
    still go to the upstream.
    """
    plain: JsonObject = {}
    secrets: dict[str, str] = {}
    for name, value in parameters.items():
        if name == "extra_headers" and isinstance(value, dict):
            secrets |= {HEADER_PREFIX + key: str(text) for key, text in value.items() if _is_secret_header(key, text)}
            headers = {key: text for key, text in value.items() if not _is_secret_header(key, text)}
            plain |= {name: headers} if headers or not value else {}
        elif name == "extra_body" and isinstance(value, dict):
            body, body_secrets = split_secrets(value, own_secrets - {"api_key"})
            secrets = body_secrets | secrets
            plain |= {name: body} if body or not value else {}
        elif name in own_secrets and value:
            secrets[name] = value if isinstance(value, str) else json.dumps(value)
        elif any(is_secret_field(leaf) for leaf in _text_leaves(name, value)):
            secrets[BODY_PREFIX + name] = json.dumps(value)
        else:
            plain[name] = value
    return plain, secrets


def find_secret(fields: JsonMapping) -> str | None:
    """The name of a field that holds a credential, at any depth of its value."""
    return next((name for name, value in fields.items() if any(map(is_secret_field, _text_leaves(name, value)))), None)


def split_secret_texts(secret: str) -> Iterator[str]:
    """The texts of a credential that an upstream may repeat alone: all of it, its words, and the texts in its JSON."""
    yield secret
    yield from secret.split()
    scheme, _, encoded = secret.partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            yield from base64.b64decode(encoded).decode().split(":", 1)
    if secret.startswith(("{", "[", '"')):
        with contextlib.suppress(ValueError):
            yield from _texts(json.loads(secret))


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def has_user(address: str) -> bool:
    return USER_IN_ADDRESS.search(address) is not None


def strip_user(text: str) -> str:
    """The text with its addresses, but without their users and passwords."""
    return USER_IN_ADDRESS.sub("", text)


def _is_secret_header(name: str, value: Json) -> bool:
    return bool(value) and SECRET_HEADER.search(name) is not None


def _text_leaves(name: str, value: Json) -> Iterator[str]:
    """The name of each text that is not empty; the texts of a list have the list's."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _text_leaves(inner, item)
    elif isinstance(value, list):
        for item in value:
            yield from _text_leaves(name, item)
    elif isinstance(value, str) and value:
        yield name
