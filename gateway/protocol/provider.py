"""The contract of a provider, and a deployment as the data path sees it. A provider does no I/O."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.protocol.abilities import ALL_ABILITIES
from gateway.protocol.answer import AnswerMetadata, StreamRelay
from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.call import Call, Operation
from gateway.protocol.capabilities import Capabilities
from gateway.protocol.errors import UpstreamFault
from gateway.protocol.json.types import JsonMapping
from gateway.protocol.secret import Secret
from gateway.protocol.timeouts import NO_TIMEOUTS, Timeouts

#: A header whose value is a credential is sealed with the other values of the credential, under this prefix.
HEADER_PREFIX = "header:"
#: The same for a field of the body, its value as JSON.
BODY_PREFIX = "body:"


@dataclass(frozen=True, slots=True)
class RankingPrices:
    """The prices by which deployments are compared, in picodollars per token. Costs are computed elsewhere."""

    input: float
    cached_input: float
    output: float


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The version of the price that a model's calls are charged by; empty for none."""

    price_id: str = ""
    prices: RankingPrices | None = None


class ModelPrices(Protocol):
    """The prices of the models that a deployment whose upstream model is a pattern may serve."""

    def find(self, upstream_model: str) -> ModelPrice:
        """Without I/O: callers choose the names."""


#: Between the deployment and the model of a circuit; neither can have it.
CIRCUIT_MARK = "\n"


def split_circuit(circuit: str) -> tuple[str, str]:
    """(deployment, model) of a Target's circuit; the model is empty where the deployment serves one."""
    deployment_id, _, model = circuit.partition(CIRCUIT_MARK)
    return deployment_id, model


@dataclass(frozen=True, slots=True)
class Target:
    """A deployment, frozen for the data path. Times are seconds, sizes tokens."""

    deployment_id: str
    model_group: str
    organization_id: str | None  # None: shared by all organizations
    provider: "Provider"
    upstream_model: str
    api_base: str
    credential: Mapping[str, Secret] = field(default_factory=dict)
    parameters: JsonMapping = field(default_factory=dict)  # go into each upstream request's body
    headers: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1
    order: int = 0
    timeouts: Timeouts = NO_TIMEOUTS
    price_id: str = ""
    mode: str = ""  # model_info.mode: chat, completion, embedding
    created_s: int = 0
    capabilities: Capabilities = field(default_factory=Capabilities)
    flags: JsonMapping = field(default_factory=dict)  # the deployment's own among its capabilities
    pattern: str = ""  # the name with wildcards by which the deployment serves this model group
    unsupported_parameters: frozenset[str] = frozenset()  # parameters that the upstream has refused before
    rpm: int | None = None  # its own limits: requests and tokens a minute, and calls at once
    tpm: int | None = None
    max_parallel: int | None = None
    max_input_tokens: int | None = None
    tags: frozenset[str] = frozenset()
    region: str = ""
    abilities: frozenset[str] = ALL_ABILITIES  # model_info (abilities.py)
    prices: RankingPrices | None = None
    model_prices: ModelPrices | None = None  # of a pattern whose models each have a price of their own
    fingerprint: str = ""  # a digest of all that its answers depend on
    other_secrets: frozenset[Secret] = frozenset()  # the sealed texts among the headers and the parameters

    @property
    def circuit(self) -> str:
        """The deployment, and its model where it serves many: what has failed there says little of the others."""
        return f"{self.deployment_id}{CIRCUIT_MARK}{self.upstream_model}" if self.pattern else self.deployment_id

    @property
    def group_names(self) -> tuple[str, ...]:
        """The names under which settings may name its model group, the most specific first."""
        return (self.model_group, self.pattern) if self.pattern else (self.model_group,)

    def reveal_secrets(self) -> tuple[str, ...]:
        """The texts of the credential, the longest first, for taking them out of an upstream's text."""
        secrets = self.other_secrets.union(self.credential.values())
        return tuple(sorted((secret.reveal() for secret in secrets), key=len, reverse=True))


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    #: Set by a provider that answers in this process: the pieces of the answer's body.
    local: "LocalAnswer | None" = None
    #: Parameters that the provider cannot express, and that were left out.
    dropped: tuple[str, ...] = ()
    #: The upstream has just closed an idle connection as a request was sent: another one may be closed likewise.
    needs_new_connection: bool = False


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    pieces: Iterator[bytes]
    content_type: str


class Provider(Protocol):
    name: str
    title: str  # as the console shows it
    aliases: tuple[str, ...]  # LiteLLM's other prefixes for it
    default_api_base: str
    needs_api_base: bool
    needs_api_key: bool
    own_parameters: frozenset[str]  # of a deployment: the provider's own, which are not for the upstream's body
    replays_reasoning: bool  # wants the reasoning of earlier turns back
    own_secrets: frozenset[str]  # values of its credential beside api_key
    operations: frozenset[Operation]

    def request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest:
        """Raises ClientFault for a request that the provider cannot express."""

    def relay(self, call: Call, target: Target, context: AttemptContext) -> StreamRelay: ...

    def relay_body(
        self, call: Call, target: Target, context: AttemptContext, body: bytes, headers: Mapping[str, str]
    ) -> tuple[bytes, AnswerMetadata]:
        """A whole answer in the client's dialect. Raises UpstreamFault for an unusable one."""

    def failure(self, target: Target, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFault:
        """The fault that an upstream's error answer stands for, its text sanitised."""

    def wire(self, target: Target) -> str:
        """The wire format that the deployment's upstream speaks, by the name that dialects give it."""

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        """Addresses of media that the upstream takes inline only."""

    def token(self, target: Target) -> str:
        """The kind of bearer token that must be fetched first; empty for none."""

    def session_tags(self, target: Target, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """The labels of the caller that the token is fetched with: (key, value)."""

    def find_borrowed_identity(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        """(parameter, reason) where a deployment would use an identity of the gateway's machine, which is that of the
        platform. `secrets`: the names in its credential."""

    def find_invalid_parameter(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        """(parameter, reason) of one that the provider cannot use, or not beside these `secrets` and parameters."""

    def split(self, call: Call, target: Target) -> tuple[Call, ...]:
        """The calls that replace an embedding call of many inputs; empty where one call does."""

    def join(self, call: Call, answers: Sequence[tuple[bytes, AnswerMetadata]]) -> tuple[bytes, AnswerMetadata]:
        """The answers to what `split` made of the call, in its order, as one; usage is their sum."""

    def has_responses(self, target: Target) -> bool:
        """The deployment's upstream speaks the Responses API, and gets requests of that format as they are."""

    def takes_prefill(self, target: Target) -> bool:
        """The deployment's model goes on with a text that the conversation ends with."""

    def count_request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest | None:
        """Asks the upstream how many tokens a call of its own wire has, for nothing; None where it cannot be asked."""


class PlainProvider:
    """The usual answers to the rarer questions of the contract."""

    __slots__ = ()

    def media(self, call: Call, target: Target) -> tuple[str, ...]:
        return ()

    def session_tags(self, target: Target, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return ()

    def find_borrowed_identity(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        return None

    def find_invalid_parameter(self, secrets: Collection[str], parameters: JsonMapping) -> tuple[str, str] | None:
        return None

    def split(self, call: Call, target: Target) -> tuple[Call, ...]:
        return ()

    def join(self, call: Call, answers: Sequence[tuple[bytes, AnswerMetadata]]) -> tuple[bytes, AnswerMetadata]:
        raise AssertionError("only the answers to a split call are joined")

    def has_responses(self, target: Target) -> bool:
        return False

    def takes_prefill(self, target: Target) -> bool:
        return target.flags.get("prefill") is True  # a name says little of a server that anyone may run

    def count_request(self, call: Call, target: Target, context: AttemptContext) -> UpstreamRequest | None:
        return None
