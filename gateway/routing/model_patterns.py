"""Model patterns: names of model groups in which `*` stands for any text, and the deployments behind them.

A pattern serves the names that no model group has. The text that `*` stands for is put into the upstream's model, and
may come from any client: it never leaves the path of a URL, nor the columns of the spend log.

Source: https://docs.litellm.ai/docs/wildcard_routing.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.protocol.capabilities import apply_flags, default_capabilities
from gateway.protocol.provider import ModelPrice, Target
from gateway.routing.target_group import TargetGroup

WILDCARD = "*"
MAX_WILDCARDS = 8
MAX_BOUND = 10_000  # targets that are remembered
#: The characters and the length of the names that providers give their models. Most other characters mean something in
#: a URL.
_NAME = re.compile(r"[A-Za-z0-9._:@+=,~/-]{1,255}")


def is_pattern(name: str) -> bool:
    return WILDCARD in name


def covers(entries: Collection[str], name: str) -> bool:
    """An entry of a list of models, or the model of a limit, is a name, or the beginning of names with `*` after it."""
    return name in entries or any(entry.endswith(WILDCARD) and name.startswith(entry[:-1]) for entry in entries)


def is_plain_name(name: str) -> bool:
    """A name that a pattern may serve: no part of it between slashes is empty, `.` or `..`."""
    return _NAME.fullmatch(name) is not None and {"", ".", ".."}.isdisjoint(name.split("/"))


def find_pattern_problem(model_group: str, upstream_model: str) -> tuple[str, str] | None:
    """("model_group" or "upstream_model", problem) of a pattern that cannot be served; None for none."""
    count = model_group.count(WILDCARD)
    if count > MAX_WILDCARDS or WILDCARD * 2 in model_group:
        return "model_group", f"may have at most {MAX_WILDCARDS} `*`, and other text between two of them"
    if upstream_model.count(WILDCARD) not in {0, count}:
        return "upstream_model", "must have no `*`, or as many as the public name, whose texts are put there"
    return None


@dataclass(frozen=True, slots=True)
class Pattern:
    """`literals`: the texts before, between and after the wildcards; there are at least two."""

    text: str
    literals: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Pattern":
        return cls(text, tuple(text.split(WILDCARD)))

    @property
    def specificity(self) -> tuple[int, int, int]:
        """Larger for a more specific one: by its text before the first wildcard, then by all of its text."""
        return len(self.literals[0]), sum(map(len, self.literals)), -len(self.literals)

    def match(self, name: str) -> tuple[str, ...] | None:
        """The texts of the wildcards; an earlier one takes as much as it can, as in LiteLLM. None where none fit."""
        first, *middle, last = self.literals
        end = len(name) - len(last)
        if end < len(first) or not name.startswith(first) or not name.endswith(last):
            return None
        texts: list[str] = []
        for literal in reversed(middle):
            at = name.rfind(literal, len(first), end)
            if at < 0:
                return None
            texts.append(name[at + len(literal) : end])
            end = at
        texts.append(name[len(first) : end])
        return tuple(reversed(texts))

    def fill(self, template: str, name: str) -> str:
        """The template with the texts of a name that matches; one without wildcards stays as it is."""
        for text in self.match(name) or ():
            template = template.replace(WILDCARD, text, 1)
        return template


@dataclass(frozen=True, slots=True)
class PatternIndex:
    """Finds the most specific pattern of a name in as many steps as the patterns' beginnings have lengths.
    `by_prefix`: {text before the first wildcard: patterns, the most specific first}."""

    by_prefix: Mapping[str, Sequence[Pattern]] = field(default_factory=dict)
    lengths: Sequence[int] = ()  # of the prefixes, the longest first

    @classmethod
    def of(cls, texts: Iterable[str]) -> "PatternIndex":
        by_prefix: dict[str, list[Pattern]] = defaultdict(list)
        for pattern in sorted(map(Pattern.read, texts), key=lambda one: (one.specificity, one.text), reverse=True):
            by_prefix[pattern.literals[0]].append(pattern)
        return cls(dict(by_prefix), sorted({len(prefix) for prefix in by_prefix}, reverse=True))

    def find(self, name: str) -> Pattern | None:
        for length in self.lengths:
            for pattern in self.by_prefix.get(name[:length], ()) if length <= len(name) else ():
                if pattern.match(name) is not None:
                    return pattern
        return None


class PatternGroups:
    """The groups of a catalog that have patterns for names. Bound targets are remembered: making one costs 20 µs."""

    def __init__(self, groups: Mapping[tuple[str | None, str], Sequence[Target]]) -> None:
        self._groups = {place: targets for place, targets in groups.items() if is_pattern(place[1])}
        texts: dict[str | None, list[str]] = defaultdict(list)
        for organization_id, text in self._groups:
            texts[organization_id].append(text)
        self._indexes = {organization_id: PatternIndex.of(group) for organization_id, group in texts.items()}
        self._bound: dict[tuple[str | None, str], tuple[Target, ...]] = {}
        self._size = 0  # of _bound, in targets

    def find(self, organization_id: str, name: str) -> tuple[Target, ...]:
        """The targets of the most specific pattern, bound to the name. An organization's own pattern goes before a
        shared one that is as specific."""
        if not self._indexes or not is_plain_name(name):
            return ()
        found = [
            (owner, pattern)
            for owner in (organization_id, None)
            if owner in self._indexes and (pattern := self._indexes[owner].find(name)) is not None
        ]
        if not found:
            return ()
        owner, pattern = max(found, key=lambda one: one[1].specificity)  # the first of equal ones
        bound = self._bound.get((owner, name))
        if bound is None:
            bound = bind_targets(self._groups[owner, pattern.text], pattern, name)
            self._remember((owner, name), bound)
        return bound

    def _remember(self, place: tuple[str | None, str], bound: tuple[Target, ...]) -> None:
        self._size += 1 + len(bound)
        if self._size > MAX_BOUND:  # callers choose the names
            self._bound.clear()
            self._size = 1 + len(bound)
        self._bound[place] = bound


def bind_targets(targets: Sequence[Target], pattern: Pattern, name: str) -> tuple[Target, ...]:
    """The targets of a pattern's group as they serve this name; none where the upstream's model would be no name."""
    bound = (_bind(target, pattern, name) for target in targets)
    return TargetGroup(target for target in bound if target is not None)


def _bind(target: Target, pattern: Pattern, name: str) -> Target | None:
    if not is_pattern(target.upstream_model):
        return replace(target, model_group=name, pattern=pattern.text)
    model = pattern.fill(target.upstream_model, name)
    if not is_plain_name(model):
        return None
    known = default_capabilities(str(target.parameters.get("base_model") or model))
    price = ModelPrice(target.price_id, target.prices)
    if target.model_prices is not None:
        price = target.model_prices.find(model)
    return replace(
        target,
        model_group=name,
        pattern=pattern.text,
        upstream_model=model,
        capabilities=apply_flags(target.flags, known) if target.flags else known,
        price_id=price.price_id,
        prices=price.prices,
    )
