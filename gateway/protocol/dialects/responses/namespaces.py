"""Tools in namespaces, for upstreams that know tools only: each gets a name of its own, by which it is found again.

The name is the namespace's and the tool's, in letters and a length that every provider takes and unlike all others of
the request. It is the same in every request with the same tools, so that prompts stay in the providers' caches.
Source: NamespaceTool, ResponseFunctionToolCall and ResponseCustomToolCall of the `openai` package 3.51.0.
"""

import re
from collections.abc import Iterable
from hashlib import blake2s

from gateway.protocol.json.types import JsonMapping

NAMESPACE = "namespace"
CLIENT_RUN = ("function", "custom")  # what the client itself runs, and any upstream can be told
SEPARATOR = "__"
MAX_NAME = 64
CHECKSUM_BYTES = 4
ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9_-]")


class Namespaces:
    """Of one request. `origins`: {name: (namespace, the tool's name there)}. `tools` were checked before."""

    __slots__ = ("_names", "_plain", "tools_by_name")

    def __init__(self, tools: Iterable[JsonMapping] = ()) -> None:
        self.tools_by_name: dict[str, tuple[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._plain = {tool["name"] for tool in tools if tool["type"] in CLIENT_RUN}
        for tool in tools:
            if tool["type"] == NAMESPACE:
                for inner in tool["tools"]:
                    if inner["type"] in CLIENT_RUN:
                        self.upstream_name(tool["name"], inner["name"])

    def upstream_name(self, namespace: str, name: str) -> str:
        """By which an upstream knows it. One that the history alone has gets a name as well."""
        if not namespace:
            return name
        place = (namespace, name)
        made = self._names.get(place)
        if made is None:
            made = self._names[place] = self._new_name(namespace, name)
            self.tools_by_name[made] = place
        return made

    def names_for_choice(self, choice: JsonMapping) -> tuple[str, ...]:
        """The names of what a tool choice means: all tools of a namespace, one tool, or, where its namespace is not
        said, each of its name."""
        name: str = choice["name"]
        if choice["type"] == NAMESPACE:
            return tuple(made for made, (namespace, _) in self.tools_by_name.items() if namespace == name)
        if choice.get("namespace"):
            return (self.upstream_name(choice["namespace"], name),)
        if name in self._plain:
            return (name,)
        return tuple(made for made, (_, inner) in self.tools_by_name.items() if inner == name) or (name,)

    def _new_name(self, namespace: str, name: str) -> str:
        joined = namespace + ("" if namespace.endswith(SEPARATOR) else SEPARATOR) + name
        legal = ILLEGAL_CHARACTER.sub("_", joined)
        if not (legal[0].isalpha() or legal[0] == "_"):
            legal = f"_{legal}"
        if legal == joined and len(joined) <= MAX_NAME and self._is_free(joined):
            return joined
        salt = 0
        while True:  # a name that does not say all is told apart by a checksum
            told = f"{salt}\0{namespace}\0{name}".encode(errors="surrogatepass")
            checksum = blake2s(told, digest_size=CHECKSUM_BYTES).hexdigest()
            made = f"{legal[: MAX_NAME - len(checksum) - 1]}_{checksum}"
            if self._is_free(made):
                return made
            salt += 1

    def _is_free(self, name: str) -> bool:
        return name not in self._plain and name not in self.tools_by_name
