"""The headers that tell a client how full its rate limits are: OpenAI's, and those of the IETF draft
(draft-ietf-httpapi-ratelimit-headers-10) where the setting asks for them."""

import math
from collections.abc import Sequence

from gateway.pipeline.answer_headers import header_text
from gateway.pipeline.ports import Dimension, Headers, LimitRule
from gateway.state.rate_limits import DAY_S, MINUTE_S, SLOT_S, Level

#: OpenAI has the first two; the others are named alike.
WORDS = {
    Dimension.REQUESTS: b"requests",
    Dimension.TOKENS: b"tokens",
    Dimension.INPUT_TOKENS: b"input-tokens",
    Dimension.OUTPUT_TOKENS: b"output-tokens",
}
PERIODS = {MINUTE_S: "-minute", DAY_S: "-day", SLOT_S: ""}


def limit_headers(rules: Sequence[LimitRule], levels: Sequence[Level]) -> Headers:
    """For each dimension its limit that has the least left. A shadow limit is not told."""
    tightest: dict[Dimension, tuple[int, LimitRule, Level]] = {}
    for rule, level in zip(rules, levels, strict=True):
        if not rule.is_shadow and rule.dimension in WORDS:
            left = max(0, rule.limit - level.used)
            if rule.dimension not in tightest or left < tightest[rule.dimension][0]:
                tightest[rule.dimension] = left, rule, level
    headers: Headers = []
    for dimension, (left, rule, level) in tightest.items():
        word = WORDS[dimension]
        headers += [
            (b"x-ratelimit-limit-" + word, b"%d" % rule.limit),
            (b"x-ratelimit-remaining-" + word, b"%d" % left),
            (b"x-ratelimit-reset-" + word, b"%.3fs" % level.resets_in_s),
        ]
    return headers


def draft_headers(rules: Sequence[LimitRule], levels: Sequence[Level], retry_after_s: float | None = None) -> Headers:
    """All limits. The draft wants no reset that is later than `retry-after`."""
    policies, states = [], []
    for rule, level in zip(rules, levels, strict=True):
        if rule.is_shadow:
            continue
        name, left = _policy_name(rule), max(0, rule.limit - level.used)
        if rule.span_s == SLOT_S:
            policies.append(b'%s;q=%d;qu="concurrent-requests"' % (name, rule.limit))
            states.append(b"%s;r=%d" % (name, left))
        else:
            resets_in_s = level.resets_in_s if retry_after_s is None else min(level.resets_in_s, retry_after_s)
            policies.append(b"%s;q=%d;w=%d" % (name, rule.limit, rule.span_s))
            states.append(b"%s;r=%d;t=%d" % (name, left, math.ceil(resets_in_s)))
    if not policies:
        return []
    return [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(states))]


def _policy_name(rule: LimitRule) -> bytes:
    """A string of structured fields, such as "key-requests-minute"."""
    dimension = rule.dimension.value.replace("_", "-")
    owner = rule.owner.replace(" ", "-")
    model = f"-{rule.model}" if rule.model else ""
    name = header_text(f"{owner}-{dimension}{PERIODS.get(rule.span_s, '')}{model}")
    return b'"%s"' % name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
