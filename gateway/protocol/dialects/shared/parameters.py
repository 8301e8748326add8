"""A deployment's parameters in a request: defaults for what the client leaves unset, and what its upstream refuses.

`Target.parameters` holds the defaults, `Target.unsupported_parameters` the names that the upstream has refused before.
A dialect with a format of its own settles the ChatRequest before it encodes it (`settle_request`). A dialect that
edits a JSON body adds the defaults with `add_defaults` and takes parameters out with a `Draft`. Both name what they
take out, so that the client hears of it, or is refused where the deployment wants no parameter dropped.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from gateway.protocol.capabilities import Capabilities
from gateway.protocol.errors import BadRequest
from gateway.protocol.items import UNSET_OPTIONS, ChatRequest
from gateway.protocol.json.types import JsonMapping, JsonObject

#: Parameters of a deployment for the gateway itself.
GATEWAY_PARAMETERS = frozenset({"api_version", "tool_call_parser", "num_ctx", "keep_alive"})
#: Parameters that do not change the answer: even a strict deployment drops them.
HINTS = frozenset({"metadata", "prediction", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"})
#: Other names of options, as a deployment or an upstream's error may write them.
ALIASES = {"max_completion_tokens": "max_tokens"}
#: Without these members a body is no request.
REQUIRED = frozenset({"input", "messages", "model", "prompt"})
#: Values that change nothing: dropping them is not reported.
NEUTRAL = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "n": 1, "logprobs": False}


@dataclass(frozen=True, slots=True)
class SettledRequest:
    request: ChatRequest
    #: The deployment's parameters that are no option of the request, for the body of the upstream's format.
    other_parameters: JsonObject
    #: Options that were set and that the upstream refuses.
    dropped: tuple[str, ...]


def settle_request(
    request: ChatRequest,
    parameters: JsonMapping,
    unsupported_parameters: Collection[str] = (),
    *,
    options: Collection[str] = UNSET_OPTIONS.keys(),
    aliases: Mapping[str, str] = ALIASES,
) -> SettledRequest:
    """The request with the deployment's parameters where the client set nothing, without what the upstream refuses.

    `options` are the fields of ChatRequest that the dialect settles this way; `aliases` maps other names of
    parameters to them.
    """
    is_set = request.options().keys()
    changes: JsonObject = {}
    others: JsonObject = {}
    for name, value in parameters.items():
        option = aliases.get(name, name)
        if option not in options:
            others[name] = value
        elif option not in is_set:
            changes[option] = value
    if "stop" in changes:
        stop = changes["stop"]
        changes["stop"] = (stop,) if isinstance(stop, str) else tuple(stop or ())
    unsupported_options = {aliases.get(name, name) for name in unsupported_parameters} & {*options}
    dropped = sorted(unsupported_options & (is_set | changes.keys()))
    changes |= {name: UNSET_OPTIONS[name] for name in dropped}
    return SettledRequest(replace(request, **changes) if changes else request, others, tuple(dropped))


def add_defaults(body: JsonMapping, parameters: JsonMapping, *, excluded: Collection[str] = ()) -> JsonObject:
    """The body with the deployment's parameters that it does not set, by whichever name, but for the excluded ones."""
    own = {ALIASES.get(name, name) for name in body}
    defaults = {name: value for name, value in parameters.items() if ALIASES.get(name, name) not in own}
    return {name: value for name, value in defaults.items() if name not in excluded} | dict(body)


@dataclass(slots=True)
class Draft:
    """The body of a request in the making."""

    body: JsonObject
    dropped: list[str] = field(default_factory=list)

    def drop(self, name: str) -> None:
        if name in self.body and self.body.pop(name) != NEUTRAL.get(name):
            self.dropped.append(name)

    def drop_all(self, names: Collection[str]) -> None:
        for name in sorted((self.body.keys() & names) - REQUIRED):
            self.drop(name)


def refuse_dropped(dropped: Iterable[str], capabilities: Capabilities, *, hints: Collection[str] = HINTS) -> None:
    """Raises BadRequest where the deployment wants no parameter dropped."""
    if capabilities.on_unsupported == "error":
        for name in dropped:
            if name not in hints:
                raise unsupported(name)


def unsupported(param: str, why: str = "is not supported by this model") -> BadRequest:
    return BadRequest(f"'{param}' {why}.", param=param, code="unsupported_parameter")
