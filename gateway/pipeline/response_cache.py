"""The response cache: which calls may have a cached answer, under which key, and what an entry holds.

The key is a digest of all that the answer depends on, so that two calls share an answer only where an upstream could
have given it to either. A member of the body counts unless it is known to change nothing; numbers count as written.
Entries belong to one organization, or by the setting to one team or key of it.
"""

import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import blake2b

import orjson

from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.ports import Attempt, Principal
from gateway.protocol.cache_control import NO_CONTROL, CacheControl, read_cache_control, read_cache_header
from gateway.protocol.call import Call, Finish
from gateway.protocol.json.types import Json, JsonObject
from gateway.protocol.provider import Target
from gateway.protocol.usage import Usage, UsageSource
from gateway.routing.request import RoutingRequest
from gateway.state.answer_store import AnswerStore, NoAnswerStore

VERSION = 1
CACHE_CONTROL = b"cache-control"
#: Members that name the caller or the call, and those that ask for this cache or for that of an upstream.
IRRELEVANT = frozenset(
    {
        *("user", "safety_identifier", "metadata", "litellm_metadata", "tags"),
        *("litellm_session_id", "litellm_trace_id", "no-log"),
        *("cache", "prompt_cache_key", "prompt_cache_retention"),
    }
)
#: Members that make an upstream remember, continue or do something: such a call is made each time.
STATEFUL = frozenset({"store", "background", "previous_response_id", "conversation", "container", "mcp_servers"})
#: Members of a message's part that name contents which are not in the request.
REFERENCES = frozenset({"url", "image_url", "file_url", "file_data"})
FILE_ID = "file_id"
#: A number of more digits than a float keeps: two such numbers may look equal once they are read. The pattern is slow,
#: and few bodies have anything like it: SHAPES of the translated text find those.
LONG_NUMBER = re.compile(rb"[:,\[\s]-?(?:[0-9.]{16}|[0-9.]+[eE][+-]?[0-9]{2})")
SHAPE_OF = bytes.maketrans(b"123456789.E+", b"000000000" + b"0e-")
SHAPES = (b"0" * 16, b"0e00", b"0e-00")
MAX_NODES = 10_000  # of the messages, looked through for references
MAC_BYTES = 32


class CacheScope(StrEnum):
    ORGANIZATION = "organization"
    TEAM = "team"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """`secret`, of at most 64 bytes, keeps installations apart that share a Redis, and seals their entries."""

    secret: bytes
    scope: CacheScope = CacheScope.ORGANIZATION
    ttl_s: float = 600
    max_ttl_s: float = 86_400
    max_entry_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer as its client got it: a whole body, or the events of a stream. `created_at`: seconds since the
    epoch."""

    deployment_id: str
    created_at: float
    body: bytes
    usage: Usage
    usage_source: UsageSource
    served_model: str = ""
    upstream_id: str = ""
    service_tier: str = ""
    dropped: tuple[str, ...] = ()

    @classmethod
    def of(cls, attempt: Attempt, body: bytes, now: float) -> "CachedAnswer":
        return cls(
            deployment_id=attempt.target.deployment_id,
            created_at=now,
            body=body,
            usage=attempt.usage,
            usage_source=attempt.usage_source,
            served_model=attempt.served_model,
            upstream_id=attempt.upstream_id,
            service_tier=attempt.service_tier,
            dropped=attempt.dropped,
        )

    def encode(self) -> bytes:
        """One line of JSON, then the body."""
        head = {name: value for name, value in asdict(self).items() if name != "body"}
        return orjson.dumps(head) + b"\n" + self.body

    @classmethod
    def decode(cls, raw: bytes) -> "CachedAnswer":
        """The answer that `encode` has written."""
        line, _, body = raw.partition(b"\n")
        head: JsonObject = orjson.loads(line)
        usage, source = Usage(**head.pop("usage")), UsageSource(head.pop("usage_source"))
        return cls(body=body, usage=usage, usage_source=source, dropped=tuple(head.pop("dropped")), **head)


@dataclass(frozen=True, slots=True)
class CacheSlot:
    """The place of a call's answer in the cache, and how the call may use it."""

    key: str
    owner: str  # whose answers it displaces
    control: CacheControl
    ttl_s: float


class ResponseCache:
    def __init__(self, store: AnswerStore, settings: CacheSettings | None) -> None:
        """Without settings nothing is cached."""
        self._store = store
        self._settings = settings

    @property
    def max_entry_bytes(self) -> int:
        return self._settings.max_entry_bytes if self._settings is not None else 0

    def find_control(self, call: Call, headers: Mapping[bytes, bytes], principal: Principal) -> CacheControl | None:
        """The controls of a call that wants the cache; None for any other call, and where there is no cache. Raises
        BadRequest."""
        asked = read_cache_control(call.body.get("cache"))
        if asked is NO_CONTROL and principal.cache is NO_CONTROL:
            return None
        control = principal.cache.narrowed_by(asked)
        if not control.is_wanted or self._settings is None:
            return None
        header = headers.get(CACHE_CONTROL)
        if header:
            control = control.narrowed_by(read_cache_header(header))
        return control if control.may_read or control.may_write else None

    def find_slot(
        self,
        call: Call,
        control: CacheControl,
        principal: Principal,
        targets: Sequence[Target],
        request: RoutingRequest,
    ) -> CacheSlot | None:
        """None for a call whose answer depends on more than its request. A call's model group is the one that the
        principal resolves its model to."""
        settings = self._settings
        if settings is None or not is_self_contained(call):
            return None
        material = orjson.dumps(
            [
                VERSION,
                scope_of(principal, settings.scope),
                control.namespace,
                call.dialect.name,
                call.model,  # which the answer repeats
                principal.resolve_model(call.model),
                sorted([target.deployment_id, target.fingerprint] for target in targets),
                *_choice_of(request, targets),
                call.betas,
                call.tells_cost,
                list(members_of(call)),
            ]
        )
        digest = blake2b(material, key=settings.secret, digest_size=MAC_BYTES)
        if has_long_number(call.raw):
            digest.update(b"\0" + call.raw)
        return CacheSlot(
            key=digest.hexdigest(),
            owner=principal.organization_id,
            control=control,
            ttl_s=min(control.ttl_s or settings.ttl_s, settings.max_ttl_s),
        )

    async def read(self, slot: CacheSlot, targets: Sequence[Target], now: float) -> CachedAnswer | None:
        """The answer, if the call may have it; one of another deployment than the call's is none."""
        control = slot.control
        if not control.may_read or control.max_age_s == 0:
            return None
        sealed = await self._store.get(slot.key, self.max_entry_bytes)
        answer = await read_sized(len(sealed), self._open, slot.key, sealed) if sealed is not None else None
        if answer is None or all(target.deployment_id != answer.deployment_id for target in targets):
            return None
        if control.max_age_s is not None and now - answer.created_at > control.max_age_s:
            return None
        return answer

    async def write(self, slot: CacheSlot, answer: CachedAnswer) -> None:
        if not slot.control.may_write:
            return
        sealed = await read_sized(len(answer.body), self._seal, slot.key, answer)
        if len(sealed) <= self.max_entry_bytes:
            await self._store.put(slot.key, sealed, owner=slot.owner, ttl_s=slot.ttl_s)

    def _seal(self, key: str, answer: CachedAnswer) -> bytes:
        raw = answer.encode()
        return self._mac(key, raw) + raw

    def _open(self, key: str, sealed: bytes) -> CachedAnswer | None:
        """The answer of a whole entry of this version, under its own key; None for anything else."""
        if not hmac.compare_digest(sealed[:MAC_BYTES], self._mac(key, sealed[MAC_BYTES:])):
            return None
        try:
            return CachedAnswer.decode(sealed[MAC_BYTES:])
        except (KeyError, TypeError, ValueError):  # written by a release whose entries have other members
            return None

    def _mac(self, key: str, raw: bytes) -> bytes:
        assert self._settings is not None
        mac = blake2b(b"%d %s " % (VERSION, key.encode()), key=self._settings.secret, digest_size=MAC_BYTES)
        mac.update(raw)
        return mac.digest()


NO_RESPONSE_CACHE = ResponseCache(NoAnswerStore(), None)


def _choice_of(request: RoutingRequest, targets: Sequence[Target]) -> tuple[list[str], list[str], str]:
    """(tags, tags of the key, region) that keep some deployments of the group from the call: the body does not say
    them."""
    if not any(target.tags for target in targets):
        return [], [], request.region
    return sorted(request.tags), sorted(request.key_tags), request.region


def scope_of(principal: Principal, scope: CacheScope) -> list[str]:
    """The callers who share answers. Keys without a team share those of their user, as stored responses do; without a
    user a key has its own."""
    organization_id = principal.organization_id
    if scope is CacheScope.ORGANIZATION:
        return [organization_id]
    if scope is CacheScope.TEAM and principal.team_id:
        return [organization_id, "team", principal.team_id]
    if scope is CacheScope.TEAM and principal.user_id:
        return [organization_id, "user", principal.user_id]
    return [organization_id, "key", principal.key_id or principal.key_digest]


def members_of(call: Call) -> Iterator[tuple[str, Json]]:
    """The members of the body that the answer depends on. Their own order counts below the first level only."""
    for name in sorted(call.body):
        if name not in IRRELEVANT:
            yield name, call.body[name]


def is_self_contained(call: Call) -> bool:
    """False where the answer depends on more than the request: contents that it refers to by an address or a file's
    id, or what an upstream remembers."""
    body = call.body
    if any(body.get(name) for name in STATEFUL.intersection(body)):
        return False
    todo: list[Json] = [body.get("messages"), body.get("system")]
    for _ in range(MAX_NODES):
        if not todo:
            return True
        node = todo.pop()
        if type(node) is dict:
            if FILE_ID in node or any(_is_address(node[name]) for name in REFERENCES.intersection(node)):
                return False
            todo += [child for child in node.values() if type(child) is dict or type(child) is list]
        elif type(node) is list:
            todo += [child for child in node if type(child) is dict or type(child) is list]
    return False


def has_long_number(raw: bytes) -> bool:
    shape = raw.translate(SHAPE_OF)
    return any(part in shape for part in SHAPES) and LONG_NUMBER.search(raw) is not None


def _is_address(value: Json) -> bool:
    return type(value) is str and "://" in value[:64] and value[:5].lower() != "data:"


def may_be_cached(attempt: Attempt, targets: Sequence[Target]) -> bool:
    """The answer of an attempt that came whole, from a deployment of the call's own group, as the client asked for it:
    a budget has not shortened it."""
    is_own = any(target.deployment_id == attempt.target.deployment_id for target in targets)
    is_shortened = attempt.reservation is not None and attempt.reservation.output_limit is not None
    return attempt.finish is Finish.COMPLETE and attempt.status_code == 200 and is_own and not is_shortened
