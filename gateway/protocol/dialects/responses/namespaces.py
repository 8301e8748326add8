"""Tools in namespaces, for upstreams without namespaces: each such tool gets a name of its own.

The name joins the namespace and the tool's name. It has only characters and a length that every provider accepts, and
it differs from all other names of the request. Requests with the same tools get the same names, so that prompts stay
in the providers' caches.
Source: NamespaceTool, ResponseFunctionToolCall and ResponseCustomToolCall of the `openai` package 3.51.0.
"""

import re
from collections.abc import Iterable
from hashlib import blake2s

from gateway.protocol.json.types import JsonMapping

NAMESPACE = "namespace"
#: Types of the tools that the client runs and that every upstream can call.
CLIENT_RUN = ("function", "custom")
SEPARATOR = "__"
MAX_NAME = 64
CHECKSUM_BYTES = 4
ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9_-]")


class Namespaces:
    """The namespaces of one request. `tools_by_name`: {upstream name: (namespace, tool name)}. `tools` are valid."""

    __slots__ = ("_names", "_plain_names", "tools_by_name")

    def __init__(self, tools: Iterable[JsonMapping] = ()) -> None:
        self.tools_by_name: dict[str, tuple[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._plain_names = {tool["name"] for tool in tools if tool["type"] in CLIENT_RUN}
        for tool in tools:
            if tool["type"] == NAMESPACE:
                for inner in tool["tools"]:
                    if inner["type"] in CLIENT_RUN:
                        self.upstream_name(tool["name"], inner["name"])

    def upstream_name(self, namespace: str, name: str) -> str:
        """The name that the upstream gets. A tool that only the history mentions gets one too."""
        if not namespace:
            return name
        tool = (namespace, name)
        upstream_name = self._names.get(tool)
        if upstream_name is None:
            upstream_name = self._names[tool] = self._new_name(namespace, name)
            self.tools_by_name[upstream_name] = tool
        return upstream_name

    def names_for_choice(self, choice: JsonMapping) -> tuple[str, ...]:
        """The upstream names that a tool choice admits: all tools of a namespace; one tool; or, without a `namespace`,
        every tool of that name."""
        name: str = choice["name"]
        if choice["type"] == NAMESPACE:
            return tuple(chosen for chosen, (namespace, _) in self.tools_by_name.items() if namespace == name)
        if choice.get("namespace"):
            return (self.upstream_name(choice["namespace"], name),)
        if name in self._plain_names:
            return (name,)
        return tuple(chosen for chosen, (_, inner) in self.tools_by_name.items() if inner == name) or (name,)

    def _new_name(self, namespace: str, name: str) -> str:
        joined = namespace + ("" if namespace.endswith(SEPARATOR) else SEPARATOR) + name
        legal = ILLEGAL_CHARACTER.sub("_", joined)
        if not (legal[0].isalpha() or legal[0] == "_"):
            legal = f"_{legal}"
        if legal == joined and len(joined) <= MAX_NAME and self._is_free(joined):
            return joined
        salt = 0
        while True:  # a checksum keeps names apart that are equal once they are cut or legalised
            source = f"{salt}\0{namespace}\0{name}".encode(errors="surrogatepass")
            checksum = blake2s(source, digest_size=CHECKSUM_BYTES).hexdigest()
            candidate = f"{legal[: MAX_NAME - len(checksum) - 1]}_{checksum}"
            if self._is_free(candidate):
                return candidate
            salt += 1

    def _is_free(self, name: str) -> bool:
        return name not in self._plain_names and name not in self.tools_by_name
