"""The routes that a key may call: lists of paths, and LiteLLM's names for groups of them.

An entry of a list is the name of a group, a path, which stands for all below it too, or a prefix that ends with `*`.
Paths of the data plane mean the same with and without `/v1`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple


class RouteList(NamedTuple):
    """Paths, and beginnings of paths."""

    paths: frozenset[str]
    prefixes: tuple[str, ...]

    def allows(self, path: str) -> bool:
        return path in self.paths or path.startswith(self.prefixes)

    def covers(self, other: "RouteList") -> bool:
        """True if this list allows all that the other one allows."""
        return all(map(self.allows, other.paths)) and all(prefix.startswith(self.prefixes) for prefix in other.prefixes)


#: Families of the data plane, and the models that it shows.
UNVERSIONED = frozenset(
    {"chat", "completions", "embeddings", "messages", "responses", "conversations", "models", "model"}
)
_OPENAI = ("/chat/completions", "/completions", "/embeddings", "/responses", "/conversations", "/models")
_ANTHROPIC = ("/messages",)
#: What clients of models look up: their own key and the models that it may call.
_DISCOVERY = ("/models", "/model/info", "/model_group/info", "/v1/key*", "/key/info*", "/utils/token_counter")
_INFO = (
    *_DISCOVERY,
    *("/v2/model/info", "/v2/key/info", "/key/list", "/key/aliases", "/key/health"),
    *("/team/info", "/team/list", "/v2/team/list", "/user/info", "/v2/user/info", "/user/list"),
    *("/organization/info", "/organization/list", "/customer/info", "/customer/list", "/end_user/info"),
    *("/end_user/list", "/budget/info", "/budget/list", "/budget/settings", "/health", "/metrics", "/audit"),
)
_SPEND = ("/spend", "/global/spend", "/global/activity", "/user/daily", "/team/daily", "/tag/daily", "/customer/daily")
_MANAGEMENT = (
    *("/key/*", "/v1/key*", "/v2/key/*", "/team/*", "/v2/team/*", "/user/*", "/v2/user/*", "/customer/*"),
    *(
        "/end_user/*",
        "/budget/*",
        "/organization/*",
        "/v2/organization/*",
        "/model/*",
        "/v2/model/*",
        "/model_group/*",
        "/models",
    ),
    *("/credentials", "/tag", "/project", "/access_group", "/utils", "/health", "/metrics", "/audit", "/api", *_SPEND),
)
#: LiteLLM's group → its paths. Groups of endpoints that the gateway does not serve are empty.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "openai_routes": _OPENAI,
    "anthropic_routes": _ANTHROPIC,
    "llm_api_routes": (*_OPENAI, *_ANTHROPIC, *_DISCOVERY),
    "info_routes": _INFO,
    "management_routes": _MANAGEMENT,
    "key_management_routes": ("/key/*", "/v1/key*", "/v2/key/*"),
    "spend_tracking_routes": _SPEND,
    "global_spend_tracking_routes": ("/global/spend", "/global/activity"),
    "public_routes": ("/health/liveliness", "/health/liveness", "/health/readiness"),
    **dict.fromkeys(("google_routes", "mcp_routes", "agent_routes", "mapped_pass_through_routes"), ()),
}
#: A key's type → the group that it may call; other types narrow nothing.
GROUP_OF_TYPE = {"llm_api": "llm_api_routes", "management": "management_routes", "read_only": "info_routes"}


def is_route(entry: str) -> bool:
    """True for what a list of routes may hold."""
    return entry in GROUPS or (entry.startswith("/") and "*" not in entry[:-1] and entry.isprintable())


def is_route_allowed(path: str, lists: Sequence[RouteList]) -> bool:
    """Every list must allow the path."""
    path = _normalize(path)
    return all(routes.allows(path) for routes in lists)


def compile_routes(entries: Iterable[str]) -> RouteList:
    return _compile(tuple(entries))


@lru_cache(maxsize=1024)  # most keys have one of few lists
def _compile(entries: tuple[str, ...]) -> RouteList:
    paths: set[str] = set()
    prefixes: set[str] = set()
    for entry in entries:
        for route in GROUPS.get(entry, (entry,)):
            path = _normalize(route)
            if path.endswith("*"):
                prefixes.add(path[:-1])
            elif path:
                paths.add(path)
                prefixes.add(f"{path}/")
    return RouteList(frozenset(paths), tuple(sorted(prefixes)))


def _normalize(path: str) -> str:
    """The path without `/v1` where the data plane answers both ways, and without a slash at its end."""
    path = path.rstrip("/")
    if path.startswith("/v1/") and path[4:].partition("/")[0].rstrip("*") in UNVERSIONED:
        return path[3:]
    return path
