"""The estimate that a call is reserved by: its tokens, and their cost at a target by the pricing function.

It is as high as the call may cost, as far as this is known before it: the dearest line that may cover its input, and
all the output that it may have; in the standard tier or the one that it asks for, at any time of day. A price per
second is reserved for as long as the call may take. Tools that the upstream may call are not reserved.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from math import ceil

from billing.pricing import COUNTS, SECONDS, PriceLines, component_cost
from gateway.protocol.call import Call, Operation
from gateway.protocol.json.types import Json, JsonMapping
from gateway.protocol.output_limit import NAMES, read_output_limit
from gateway.protocol.provider import Target

#: An output limit that is lowered to what a budget still pays is at least this.
MIN_LOWERED_TOKENS = 16
#: The fields of the dialects that say how many answers there may be.
ANSWER_COUNTS = ("n", "best_of")
MAX_ANSWERS = 128
#: The fields that ask for a service tier; `speed` is Anthropic's.
TIER_FIELDS = ("service_tier", "speed")
#: The longest call at a deployment without a time-out of its own, for prices per second.
DEFAULT_SECONDS = 600
_OUTPUT, _REASONING, _AUDIO = (
    COUNTS.index(name) for name in ("output_tokens", "reasoning_tokens", "output_audio_tokens")
)
_INPUT, _CACHE_WRITE = COUNTS.index("input_tokens"), COUNTS.index("cache_write_5m_tokens")
#: Text of a request → the line that some of its input may be priced by.
_DEARER_INPUTS = {
    b'"cache_control"': _CACHE_WRITE,
    b'"1h"': COUNTS.index("cache_write_1h_tokens"),
    b'"input_audio"': COUNTS.index("input_audio_tokens"),
}


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """`cost_pusd` is None where no price covers the call."""

    input_tokens: int
    output_tokens: int
    cost_pusd: int | None


class CallEstimator:
    """`default_output_tokens` is for a call that names no limit of its output. No call has more output than its model
    can write, where the deployment says how much that is (`max_output_tokens`)."""

    def __init__(self, find_price: Callable[[str], PriceLines | None], *, default_output_tokens: int) -> None:
        self._find_price = find_price
        self._default_output_tokens = default_output_tokens

    def __call__(self, call: Call, target: Target) -> CallEstimate:
        outputs = self._count_outputs(call, target)
        price = self._find_dearest(call, target)
        cost = _input_cost(call, target, price)
        if cost is not None and outputs:
            rate = _output_rate(call, price)
            cost = cost + component_cost(outputs, rate) if rate is not None else None
        return CallEstimate(call.input_estimate, outputs, cost)

    def find_output_limit(self, call: Call, target: Target, pusd: int) -> int | None:
        """The largest limit of each answer's output, below that of the call, at which the call is estimated to cost at
        most so many picodollars; None where there is none of use."""
        price, answers = self._find_dearest(call, target), _count_answers(call)
        input_cost, rate = _input_cost(call, target, price), _output_rate(call, price)
        if input_cost is None or not rate or not target.unsupported_parameters.isdisjoint(NAMES):
            return None
        if call.operation is Operation.COMPLETION and read_output_limit(call.body) is None:
            return None  # its upstream has a low limit of its own, which one of ours would raise
        limit = int((pusd - input_cost) // rate) // answers
        is_lower = limit * answers < self._count_outputs(call, target)
        return limit if is_lower and limit >= max(MIN_LOWERED_TOKENS, 1 + _thinking_tokens(call, target)) else None

    def count_tokens(self, call: Call, target: Target) -> int:
        """Input and output together."""
        return call.input_estimate + self._count_outputs(call, target)

    def _find_dearest(self, call: Call, target: Target) -> PriceLines | None:
        price = self._find_price(target.price_id)
        if price is None or not (price.variants or price.brackets):
            return price
        tiers = {str(fields.get(name)).lower() for fields in (target.parameters, call.body) for name in TIER_FIELDS}
        return price.find_dearest(call.input_estimate, tiers)

    def _count_outputs(self, call: Call, target: Target) -> int:
        if call.operation is Operation.EMBEDDING:
            return 0
        limit = read_output_limit(call.body)
        if limit is None:
            limit = read_output_limit(target.parameters)
        if limit is None:
            limit = self._default_output_tokens
        return min(limit, target.capabilities.max_output_tokens or limit) * _count_answers(call)


def _count_answers(call: Call) -> int:
    counts = [value for name in ANSWER_COUNTS if type(value := call.body.get(name)) is int]
    prompts = _count_prompts(call.body.get("prompt")) if call.operation is Operation.COMPLETION else 1
    return min(max([1, *counts]), MAX_ANSWERS) * prompts


def _count_prompts(prompt: Json) -> int:
    """A prompt is a text or a list of tokens; a list of these is several prompts."""
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1


def _dearer_inputs(call: Call, target: Target) -> Collection[int]:
    dearer = [place for text, place in _DEARER_INPUTS.items() if text in call.raw]
    return [*dearer, _CACHE_WRITE] if target.capabilities.cache_breakpoints else dearer


def _thinking_tokens(call: Call, target: Target) -> int:
    """The tokens that a Claude may think, which its limit must be larger than."""
    fields: JsonMapping = {**target.parameters, **call.body}
    thinking = fields.get("thinking")
    tokens = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    return tokens if type(tokens) is int else 0


def _input_cost(call: Call, target: Target, price: PriceLines | None) -> int | None:
    rate = _rate_of(price, _INPUT, _dearer_inputs(call, target))
    # A model is free by its price, never because its input was counted as nothing
    if price is None or rate is None:
        return None
    return component_cost(max(1, call.input_estimate), rate) + _unit_cost(target, price)


def _unit_cost(target: Target, price: PriceLines) -> int:
    """The cost of the call beside its tokens, if it takes as long as it may."""
    seconds = ceil(target.timeouts.timeout_s or DEFAULT_SECONDS)
    counts = {"request": 1} | dict.fromkeys(SECONDS, seconds)
    return sum(component_cost(counts[name], rate) for name, rate in price.per_unit if name in counts)


def _output_rate(call: Call, price: PriceLines | None) -> int | Decimal | None:
    has_audio = "audio" in (call.body.get("modalities") or ())
    return _rate_of(price, _OUTPUT, (_REASONING, _AUDIO) if has_audio else (_REASONING,))


def _rate_of(price: PriceLines | None, base: int, dearer: Collection[int]) -> int | Decimal | None:
    """The dearest of the lines; None where the base line has no price."""
    if price is None or price.per_token[base] is None:
        return None
    rates: list[int | Decimal] = [rate for place in (base, *dearer) if (rate := price.per_token[place]) is not None]
    return max(rates)
