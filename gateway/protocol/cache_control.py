"""Cache controls: how a request, its headers and its key want the response cache to be used.

Source: the `cache` member of LiteLLM's bodies and key metadata (https://docs.litellm.ai/docs/proxy/caching), and the
directives of a request's Cache-Control header (RFC 9111, section 5.2.1).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.protocol.errors import BadRequest
from gateway.protocol.fields import Check, boolean, number, text
from gateway.protocol.json.types import Json

MAX_NAMESPACE_CHARS = 255
MAX_S = 10**9
MAX_DIRECTIVES = 16


def _positive(value: Json) -> str | None:
    return number(0, MAX_S)(value) or (None if value > 0 else "it must be greater than 0")


def _namespace(value: Json) -> str | None:
    if problem := text(value):
        return problem
    return None if len(value) <= MAX_NAMESPACE_CHARS else f"it must have at most {MAX_NAMESPACE_CHARS} characters"


CHECKS: Mapping[str, Check] = {
    "use-cache": boolean,
    "no-cache": boolean,
    "no-store": boolean,
    "ttl": _positive,
    "s-maxage": number(0, MAX_S),
    "namespace": _namespace,
}
#: Members that ask for the cache. The others restrict its use where something else asks for it.
ASKING = frozenset({"ttl", "s-maxage", "namespace"})


@dataclass(frozen=True, slots=True)
class CacheControl:
    """`is_wanted` is None where nothing is said. Times are seconds; None: as the gateway's settings say."""

    is_wanted: bool | None = None
    may_read: bool = True
    may_write: bool = True
    ttl_s: float | None = None
    max_age_s: float | None = None
    namespace: str = ""

    def narrowed_by(self, other: "CacheControl") -> "CacheControl":
        """These controls as defaults of the other ones, which cannot lift a restriction."""
        ages = [age for age in (self.max_age_s, other.max_age_s) if age is not None]
        return CacheControl(
            is_wanted=self.is_wanted if other.is_wanted is None else other.is_wanted,
            may_read=self.may_read and other.may_read,
            may_write=self.may_write and other.may_write,
            ttl_s=self.ttl_s if other.ttl_s is None else other.ttl_s,
            max_age_s=min(ages, default=None),
            namespace=other.namespace or self.namespace,
        )


NO_CONTROL = CacheControl()


def read_cache_control(value: Json, param: str = "cache") -> CacheControl:
    """Reads the `cache` object of a body or of a key's metadata. Raises BadRequest naming the member."""
    if value is None:
        return NO_CONTROL
    if type(value) is not dict:
        raise _fault(param, "it must be an object")
    for name, member in value.items():
        check = CHECKS.get(name)
        if check is None:
            raise _fault(f"{param}.{name[:40]}", f"it must be one of {', '.join(CHECKS)}")
        problem = check(member) if member is not None else None
        if problem:
            raise _fault(f"{param}.{name}", problem)
    is_asked = any(value.get(name) is not None for name in ASKING)
    is_wanted = value.get("use-cache")
    return CacheControl(
        is_wanted=(True if is_asked else None) if is_wanted is None else is_wanted,
        may_read=not value.get("no-cache"),
        may_write=not value.get("no-store"),
        ttl_s=value.get("ttl"),
        max_age_s=value.get("s-maxage"),
        namespace=value.get("namespace") or "",
    )


def read_cache_header(header: bytes) -> CacheControl:
    """Reads the Cache-Control header of a request, which can only restrict. Other directives mean nothing here; an age
    that cannot be read admits no cached answer."""
    control = NO_CONTROL
    for directive in header.decode("latin-1").lower().split(",")[:MAX_DIRECTIVES]:
        name, _, value = directive.partition("=")
        match name.strip():
            case "no-cache":
                control = replace(control, may_read=False)
            case "no-store":
                control = replace(control, may_write=False)
            case "max-age":
                digits = value.strip().strip('"')
                is_age = digits.isascii() and digits.isdigit() and len(digits) <= len(str(MAX_S))
                control = replace(control, max_age_s=float(digits) if is_age else 0.0)
    return control


def _fault(param: str, problem: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': {problem}.", param=param, code="invalid_value")
