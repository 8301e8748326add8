"""Makes billing/catalogue/seed.json from genai-prices: `make prices [LITELLM=model_prices.json]`.

The book's own rules match names by prefix and by substring. The seed has exact names only: those that the book lists,
and, with LiteLLM's price map as a second opinion, its names for the same provider that the book matches at the same
price. A model with tokens that the gateway does not count apart (images, video) and a price of their own is left out:
unpriced is honest, and half a price is not.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genai_prices import types
from genai_prices.data_snapshot import get_snapshot

from billing.catalogue.seed import SEED, digest

#: Provider of a deployment → the book's provider, and LiteLLM's providers of the same models with their keys' prefix.
PROVIDERS = {
    "anthropic": ("anthropic", {"anthropic": ""}),
    "azure": ("azure", {"azure": "azure/"}),
    "azure_ai": ("azure", {"azure_ai": "azure_ai/"}),
    "bedrock": ("aws", {"bedrock": "", "bedrock_converse": ""}),
    "deepseek": ("deepseek", {"deepseek": "deepseek/"}),
    "fireworks_ai": ("fireworks", {"fireworks_ai": "fireworks_ai/"}),
    "gemini": ("google", {"gemini": "gemini/"}),
    "gemini_compat": ("google", {"gemini": "gemini/"}),
    "groq": ("groq", {"groq": "groq/"}),
    "mistral": ("mistral", {"mistral": "mistral/"}),
    "moonshot": ("moonshotai", {"moonshot": "moonshot/"}),
    "openai": ("openai", {"openai": "", "text-completion-openai": ""}),
    "openrouter": ("openrouter", {}),
    "perplexity": ("perplexity", {"perplexity": "perplexity/"}),
    "together_ai": ("together", {"together_ai": "together_ai/"}),
    "vertex_ai": ("google", {"vertex_ai-language-models": "vertex_ai/", "vertex_ai-anthropic_models": "vertex_ai/"}),
    "xai": ("x-ai", {"xai": "xai/"}),
    "zai": ("zai", {"zai": "zai/"}),
}
MILLION, THOUSAND = Decimal(10**6), Decimal(10**3)
COMPONENTS = {
    "input_mtok": ("input", MILLION),
    "output_mtok": ("output", MILLION),
    "cache_read_mtok": ("cache_read", MILLION),
    "cache_write_mtok": ("cache_write_5m", MILLION),
    "cache_write_1h_mtok": ("cache_write_1h", MILLION),
    "input_audio_mtok": ("input_audio", MILLION),
    "output_audio_mtok": ("output_audio", MILLION),
    "output_reasoning_mtok": ("reasoning", MILLION),
    "output_citation_mtok": ("citation", MILLION),
    "requests_kcount": ("request", THOUSAND),
    "web_searches_kcount": ("web_search", THOUSAND),
    "storage_searches_kcount": ("file_search", THOUSAND),
}
#: Cached audio is counted as cached input.
IGNORED = {"cache_audio_read_mtok"}
TIERS = {
    ("service_tier", "priority"): "priority",
    ("service_tier", "flex"): "flex",
    ("service_tier", "fast"): "fast",
    ("speed", "fast"): "fast",
    ("processing", "batch"): "batch",
}
LONGEST_NAME = 255
#: Bedrock's prefixes of a model in some region. The name without one is the model in the region that is called, which
#: AWS charges in the same way; `global.` is another price.
REGIONS = ("apac.", "au.", "eu.", "in.", "jp.", "regional.", "us.")
#: Where the second opinion is right; docs/prices.md says why.
CORRECTIONS = {
    ("deepseek", name): {"input": "0.00000028", "cache_read": "0.000000028", "output": "0.00000042"}
    for name in ("deepseek-chat", "deepseek-reasoner")
}


class Uncounted(Exception):
    """The price has a component that the gateway cannot charge."""


@dataclass(frozen=True)
class Entry:
    names: tuple[str, ...]
    versions: tuple[tuple[str | None, dict[str, str]], ...]


def text(amount: Decimal, unit: Decimal) -> str:
    value = f"{amount / unit:f}"
    return value.rstrip("0").rstrip(".") if "." in value else value


def read_lines(price: types.ModelPrice, suffix: str = "") -> dict[str, str]:
    lines: dict[str, str] = {}
    own = {key: value for key, value in vars(price).items() if value is not None}
    for key, value in own.items():
        if key in IGNORED:
            continue
        if key not in COMPONENTS:
            plain = key.replace("_image", "").replace("_video", "")
            if plain != key and own.get(plain) == value:
                continue  # the same as the price of a text token
            raise Uncounted(key)
        component, unit = COMPONENTS[key]
        if isinstance(value, Decimal):
            lines[component + suffix] = text(value, unit)
            continue
        lines[component + suffix] = text(value.base, unit)
        for tier in value.tiers:
            lines[f"{component}{suffix}>{tier.start}"] = text(tier.price, unit)
    return lines


def lines_on(model: types.ModelInfo, day: date) -> dict[str, str]:
    """The lines of the version in force on a day."""
    conditional = model.prices if isinstance(model.prices, list) else [types.ConditionalPrice(prices=model.prices)]
    apt = [
        row
        for row in conditional
        if not isinstance(row.constraint, types.StartDateConstraint) or row.constraint.start_date <= day
    ]
    lines: dict[str, str] = {}
    for row in apt:
        if isinstance(row.constraint, types.TimeOfDateConstraint):
            begin, end = row.constraint.start_time, row.constraint.end_time
            assert begin.utcoffset() == end.utcoffset() == UTC.utcoffset(None)
            lines |= read_lines(row.prices, f"~{begin:%H:%M}-{end:%H:%M}")
        else:
            lines = read_lines(row.prices)
    for variant in model.price_variants or ():
        tier = TIERS.get(next(iter(variant.when.items()))) if len(variant.when) == 1 else None
        if tier and (variant.constraint is None or variant.constraint.start_date <= day):
            prefix = f"@{tier}"
            lines = {key: usd for key, usd in lines.items() if prefix not in key} | read_lines(variant.prices, prefix)
    return lines


def start_dates(model: types.ModelInfo) -> set[date]:
    conditional = model.prices if isinstance(model.prices, list) else []
    rows = [*conditional, *(model.price_variants or ())]
    return {row.constraint.start_date for row in rows if isinstance(row.constraint, types.StartDateConstraint)}


def read_versions(model: types.ModelInfo, today: date) -> tuple[tuple[str | None, dict[str, str]], ...]:
    """The version in force today, and later ones."""
    days = start_dates(model)
    current = max((day for day in days if day <= today), default=None)
    versions = [(current, lines_on(model, current or today))]
    versions += [(day, lines_on(model, day)) for day in sorted(days) if day > today]
    return tuple((None if day is None else day.isoformat(), lines) for day, lines in versions if lines)


def equal_names(match: Any) -> Iterator[str]:
    match match:
        case types.ClauseEquals():
            yield match.equals
        case types.ClauseOr():
            for clause in match.or_:
                yield from equal_names(clause)


def second_opinion(name: str, model: types.ModelInfo, row: Mapping[str, Any], today: date) -> bool:
    """LiteLLM has the same plain prices for the name."""
    try:
        lines = lines_on(model, today)
    except Uncounted:
        return False
    pairs = (
        ("input", "input_cost_per_token"),
        ("output", "output_cost_per_token"),
        ("cache_read", "cache_read_input_token_cost"),
    )
    return bool(lines) and all(
        Decimal(lines.get(line, "0"))
        == Decimal(repr(row.get(key, 0))).normalize().quantize(Decimal("1e-15")).normalize()
        or (line == "cache_read" and key not in row)
        for line, key in pairs
    )


def read_provider(name: str, opinions: Mapping[str, Any], today: date) -> list[Entry]:
    source, prefixes = PROVIDERS[name]
    book = {provider.id: provider for provider in get_snapshot().providers}
    provider = book[source]
    names: dict[str, types.ModelInfo] = {}
    for model in provider.models:
        for label in (model.id, *equal_names(model.match)):
            names.setdefault(label, model)
    for key, row in opinions.items():
        label = row.get("litellm_provider") if isinstance(row, dict) else None
        if label not in prefixes:
            continue
        candidate = key.removeprefix(prefixes[label])
        found = find_model(provider, candidate, book)
        if candidate not in names and found is not None and second_opinion(candidate, found, row, today):
            names[candidate] = found
    for label, model in list(names.items()):
        if label.startswith(REGIONS) and model.id.startswith("regional."):
            names.setdefault(label.partition(".")[2], model)
    entries: dict[int, tuple[types.ModelInfo, list[str]]] = {}
    for label, model in names.items():
        if len(label) <= LONGEST_NAME:
            entries.setdefault(id(model), (model, []))[1].append(label)
    result = []
    for model, labels in entries.values():
        try:
            versions = read_versions(model, today)
        except Uncounted:
            continue
        corrected = next((CORRECTIONS[name, label] for label in labels if (name, label) in CORRECTIONS), None)
        if corrected is not None:
            versions = ((None, corrected),)
        if versions:
            result.append(Entry(tuple(sorted(labels)), versions))
    return sorted(result, key=lambda entry: entry.names)


def find_model(provider: types.Provider, name: str, book: Mapping[str, types.Provider]) -> types.ModelInfo | None:
    for owner in (provider, *(book[other] for other in provider.fallback_model_providers or ())):
        found = owner.find_model(name.lower())
        if found is not None:
            return found
    return None


def main() -> None:
    arguments = argparse.ArgumentParser(description="Make the seed of the price catalogue.")
    arguments.add_argument("--litellm", type=Path, help="LiteLLM's model_prices_and_context_window.json")
    given = arguments.parse_args()
    opinions = json.loads(given.litellm.read_text()) if given.litellm else {}
    today = datetime.now(UTC).date()
    providers = {
        name: [{"names": entry.names, "versions": entry.versions} for entry in read_provider(name, opinions, today)]
        for name in sorted(PROVIDERS)
    }
    content = {
        "title": f"genai-prices {version('genai-prices')}",
        "made_on": today.isoformat(),
        "licence": "MIT, Copyright (c) Pydantic Services Inc. 2025 to present; names confirmed by LiteLLM's price map, "
        "MIT, Copyright (c) 2023 Berri AI",
        "providers": providers,
    }
    body = json.dumps(content | {"sha256": digest(content)}, ensure_ascii=False, separators=(",", ":"))
    SEED.write_text(body.replace('{"names"', '\n{"names"') + "\n")
    counts = {name: (len(rows), sum(len(row["names"]) for row in rows)) for name, rows in providers.items()}
    print(f"{SEED.name}: {SEED.stat().st_size:,} bytes", counts)


if __name__ == "__main__":
    main()
