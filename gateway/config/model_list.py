"""model_list: its items as deployments that `load` can store."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from urllib.parse import urlsplit

from billing.catalogue.lines import TOKENS, PriceLine
from billing.catalogue.litellm import MAX_USD, find_line, read_amount
from gateway.config.environment import Environment, FromEnvironment
from gateway.config.fields import MAX_COUNT, Fields, read_json, read_text
from gateway.config.gaps import PER_CALL, UNKNOWN, gap_of_info, gap_of_param, harmless, report_gap
from gateway.config.report import Findings, Refused
from gateway.config.yaml_file import Section, Value
from gateway.parsers.registry import PARSERS
from gateway.protocol.abilities import find_invalid_ability
from gateway.protocol.amounts import usd_text
from gateway.protocol.capabilities import NAMES as CAPABILITIES
from gateway.protocol.capabilities import find_invalid_flag
from gateway.protocol.deployment_tags import TAGS, find_tags_problem
from gateway.protocol.json.types import Json, JsonMapping, JsonObject
from gateway.protocol.provider import HEADER_PREFIX, Provider
from gateway.protocol.secret import Secret
from gateway.protocol.secret_fields import SECRET_HEADER, is_secret_field
from gateway.protocol.timeouts import NAMES as TIMEOUTS
from gateway.providers.registry import PREFIXES
from gateway.routing.model_patterns import find_pattern_problem
from gateway.upstream.addresses import is_denied_url
from tenants.budget_fields import MAX_BUDGET_USD, read_budget_duration, read_usd
from tenants.invalid import KeyInvalid

MAX_NAME_CHARS = 255
MAX_ADDRESS_CHARS = 1024
MAX_TOKEN_USD = 1

#: The names that LiteLLM serves without a prefix, and their provider.
_BARE_NAMES = re.compile(r"(?:ft:)?(?:gpt-|chatgpt-|text-embedding-|o[134](?:-|$))")
_BARE_PROVIDER = "openai"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FRAMING_HEADERS = {
    *("host", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"),
    *("content-length", "content-type", "transfer-encoding", "accept-encoding", "content-encoding"),
}


@dataclass(frozen=True, slots=True)
class DeploymentEntry:
    """One item of model_list. `price_lines` are USD per token, exactly as written."""

    place: str
    id: str
    model_group: str
    provider: str
    upstream_model: str
    api_base: str
    credential: Mapping[str, Secret]
    price_lines: Mapping[str, str]
    parameters: JsonMapping
    model_info: JsonMapping
    weight: float
    order: int
    rpm: int | None
    tpm: int | None
    max_parallel: int | None
    timeout_s: float | None
    stream_timeout_s: float | None
    connect_timeout_s: float | None
    stream_idle_timeout_s: float | None
    max_stream_duration_s: float | None
    budget: JsonMapping  # `max_budget` and `budget_duration`, as gateway.deployments.read_budgets returns them


def read_models(section: Section, environment: Environment, findings: Findings) -> tuple[DeploymentEntry, ...]:
    if not isinstance(section.value, list | None | Refused):
        findings.refuse(section.place, "must be a list")
    items = (_read_item(place, item, environment, findings) for place, item in section.items)
    drafts = [draft for draft in items if draft is not None]
    _share_calls(drafts, findings)
    return tuple(_identify(drafts, findings))


@dataclass(slots=True)
class _Draft:
    """An entry whose id, weight and order may depend on the other items."""

    entry: DeploymentEntry
    written_base: str
    limits: dict[str, int | None]
    id: str | None
    weight: float | None
    order: int | None


def _read_item(place: str, item: Value, environment: Environment, findings: Findings) -> _Draft | None:
    """One item; None if it has a problem or is blocked."""
    if not isinstance(item, dict):
        if not isinstance(item, Refused):
            findings.refuse(place, "must be a mapping with model_name and litellm_params")
        return None
    fields = Fields(place, item, findings)
    model_group = fields.text("model_name", longest=MAX_NAME_CHARS, required=True)
    params = fields.mapping("litellm_params", required=True)
    info = fields.mapping("model_info")
    for name, value in fields.unread.items():
        is_misplaced = name in {"rpm", "tpm", "weight", "order"}
        gap = harmless("belongs under litellm_params") if is_misplaced else UNKNOWN
        report_gap(findings, fields.at(name), value, gap)
    if not isinstance(item.get("litellm_params"), dict):
        return None

    credential: dict[str, Secret] = {}
    model = _read_provider(params)
    written_base = api_base = ""
    if model is None:
        params.drop("api_base", "base_url", "api_key")
    else:
        provider, upstream_model = model
        _check_pattern(fields, params, model_group or "", upstream_model)
        written_base, api_base = _read_address(params, provider)
        is_own_address = api_base == provider.default_api_base.rstrip("/")
        key = _read_api_key(params, provider, environment, is_own_address=is_own_address)
        if key:
            credential["api_key"] = Secret(key)
    reason = "a limit of the deployment, for all processes together"
    limits = {name: params.count(name, reason=reason) for name in ("rpm", "tpm", "max_parallel_requests")}
    weight = params.number("weight", zero=True)
    order = params.count("order", at_least=-MAX_COUNT)
    timeouts = {name: params.number(name.removesuffix("_s"), zero=False) for name in TIMEOUTS}
    budget = _read_budget(params)
    price_lines = _read_prices(params, info)
    parameters = _read_parameters(params, credential, findings, model[0] if model else None)
    own_id = info.text("id", longest=MAX_NAME_CHARS)
    is_blocked = info.flag("blocked", reason="the deployment is not served")
    model_info = _read_info(info, findings)
    has_problem = any(problem.place.startswith(f"{place}.") for problem in findings.problems)
    if is_blocked or has_problem or model_group is None or model is None:
        return None
    entry = DeploymentEntry(
        place=place,
        id="",
        model_group=model_group,
        provider=model[0].name,
        upstream_model=model[1],
        api_base=api_base,
        credential=credential,
        price_lines=price_lines,
        parameters=parameters,
        model_info=model_info,
        weight=1.0,
        order=0,
        rpm=limits["rpm"],
        tpm=limits["tpm"],
        max_parallel=limits["max_parallel_requests"],
        **timeouts,
        budget=budget,
    )
    return _Draft(entry, written_base, limits, own_id, weight, order)


def _check_pattern(fields: Fields, params: Fields, model_group: str, upstream_model: str) -> None:
    problem = find_pattern_problem(model_group, upstream_model) if model_group else None
    if problem is not None and problem[0] == "model_group":
        fields.refuse("model_name", problem[1])
    elif problem is not None:
        params.refuse("model", problem[1])


def _read_budget(params: Fields) -> JsonObject:
    """The two fields of DeploymentEntry.budget."""
    reason = "a budget of the deployment, for all processes together"
    has_amount = params.unread.get("max_budget") not in (None, "")
    amount = params.usd("max_budget", at_most=MAX_BUDGET_USD, reason=reason)
    duration = params.text("budget_duration", reason="the length of the budget's windows")
    if duration is not None and not has_amount:
        params.refuse("budget_duration", "needs max_budget")
    try:
        duration = read_budget_duration(duration) or None
    except KeyInvalid as error:
        params.refuse("budget_duration", error.message)
    return {
        "max_budget": None if amount is None else usd_text(read_usd(amount, "max_budget")),
        "budget_duration": duration,
    }


def find_prefix(model: str) -> str:
    """The name of the provider in front of a model, or that of LiteLLM's names without one; empty for none."""
    before, slash, _ = model.partition("/")
    if slash:
        return before
    return _BARE_PROVIDER if _BARE_NAMES.match(model) else ""


def _read_provider(params: Fields) -> tuple[Provider, str] | None:
    """The provider, and the model's name at the upstream."""
    model = params.text("model", longest=MAX_NAME_CHARS, required=True)
    chosen = params.text("custom_llm_provider")
    if model is None:
        return None
    before, slash, after = model.partition("/")
    prefix = chosen if chosen is not None else find_prefix(model)
    name = after if slash and before == prefix else model
    # In LiteLLM the name of an OpenAI model can force an endpoint; the gateway keeps the endpoint of the call.
    is_openai = prefix == _BARE_PROVIDER
    upstream_model = name.removeprefix("chat_completions/") if is_openai else name
    provider = PREFIXES.get(prefix)
    key = "model" if chosen is None else "custom_llm_provider"
    choices = f"known: {', '.join(sorted(PREFIXES))}"
    if not prefix and not slash:
        params.refuse("model", f"names no provider: write `provider/name`; {choices}")
    elif provider is None:
        params.refuse(key, f"the provider {prefix!r} is unknown; {choices}")
    elif is_openai and name.startswith("responses/"):
        params.refuse(key, "the endpoint `responses` is not supported in this version")
    elif not upstream_model:
        params.refuse(key, "names no model: write `provider/name`")
    else:
        return provider, upstream_model
    return None


def _read_address(params: Fields, provider: Provider) -> tuple[str, str]:
    """(the address as written, for the id; the address to call)."""
    names = [name for name in ("api_base", "base_url") if params.unread.get(name) not in (None, "")]
    if len(names) == 2:
        params.refuse("base_url", "api_base is given too, and means the same")
    name = names[0] if names else "api_base"
    written = params.text(name, longest=MAX_ADDRESS_CHARS, reason=None)
    params.drop("api_base", "base_url")
    if written is None:
        usual = provider.default_api_base.rstrip("/")
        if usual and not names:
            params.honour(name, f"not given: {usual} is where {provider.title} usually answers")
        elif provider.needs_api_base and not names:
            params.refuse(name, f"is needed: the address of {provider.title} cannot be guessed")
        return "", usual
    written = written.rstrip("/")
    wrong = _address_problem(written)
    if wrong:
        params.refuse(name, wrong)
        return "", ""
    home = urlsplit(provider.default_api_base).path.rstrip("/")
    if home and not provider.needs_api_key and not urlsplit(written).path:
        # A LiteLLM file has the root of Ollama. A server of a known kind answers under the path of its usual address;
        # an address of the general kind stays unchanged.
        params.honour(name, f"{home} added, where {provider.title} answers")
        return written, written + home
    params.honour(name)
    return written, written


def _address_problem(address: str) -> str:
    if " " in address:
        return "holds a space"
    try:
        parts = urlsplit(address)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in {"http", "https"}:
        return "must be an address that begins with http:// or https://"
    if is_denied_url(address):
        return "is a link-local or metadata address; no upstream is there"
    if "@" in parts.netloc:
        return "must not hold a user or a password; use api_key or extra_headers"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment; the gateway appends the path of the call"
    return ""


def _read_api_key(params: Fields, provider: Provider, environment: Environment, *, is_own_address: bool) -> str | None:
    value = params.unread.get("api_key")
    is_present = bool(value.strip()) if isinstance(value, str) else value is not None
    key = params.text("api_key", reason="stored encrypted")
    if provider.needs_api_key and is_own_address and not is_present:
        # As in LiteLLM, but only for the provider's own address: its key must not go to another host.
        variable = f"{re.sub('[^A-Z0-9]', '_', provider.name.upper())}_API_KEY"
        key = (environment.get(variable) or "").strip()
        if key and key.isprintable():
            params.honour("api_key", f"taken from the environment variable {variable}")
        else:
            elsewhere = f", here or in the environment variable {variable}" if environment.is_available else ""
            params.refuse("api_key", f"is needed{elsewhere}")
    return key


def _read_prices(params: Fields, info: Fields) -> dict[str, str]:
    """{line: USD per unit} of all names that have a line. One price under two names must be the same."""
    lines: dict[str, str] = {}
    names = {name: line for name in (*params.unread, *info.unread) if (line := find_line(name)) is not None}
    for name, line in names.items():
        is_in_params = params.unread.get(name) is not None
        at_most = MAX_TOKEN_USD if PriceLine.read(line, "0").component in TOKENS else MAX_USD
        price, info_price = params.price(name, at_most), info.price(name, at_most, outranked=is_in_params)
        price = info_price if price is None else price
        if price is None:
            continue
        amount = read_amount(name, Decimal(price))
        if Decimal(lines.setdefault(line, amount)) != Decimal(amount):
            params.refuse(name, "is given under another name too, with another amount")
    return lines


def _read_parameters(
    params: Fields, credential: dict[str, Secret], findings: Findings, provider: Provider | None
) -> JsonObject:
    """The parameters of each upstream request. Secret ones are added to `credential`."""
    own: JsonObject = {}
    for name in sorted(provider.own_secrets.intersection(params.unread) if provider else ()):
        secret = read_text(params.unread.pop(name), params.at(name), findings)  # a service account has many lines
        params.honour(name, "stored encrypted")
        if secret:
            credential[name] = Secret(secret)
    for name in sorted(provider.own_parameters.intersection(params.unread) if provider else ()):
        value = params.unread.pop(name)
        params.honour(name, "")
        if value is not None:
            own[name] = read_json(value, params.at(name), findings)
    base_model = params.text("base_model", longest=MAX_NAME_CHARS, reason="the model whose price it has")
    if base_model is not None:
        own["base_model"] = base_model
    parser = params.text("tool_call_parser", reason="tool calls that stand in the text are read")
    if parser is not None:
        own["tool_call_parser"] = parser
        if parser not in PARSERS:
            params.refuse("tool_call_parser", f"is unknown; known: {', '.join(sorted(PARSERS))}")
    hosted_tools = params.text("hosted_tools", reason="of the Responses API, where the upstream does not have them")
    if hosted_tools is not None:
        own["hosted_tools"] = hosted_tools
    if params.unread.get("cache_breakpoints") is not None:
        reason = "what to cache is marked for clients that mark nothing"
        own["cache_breakpoints"] = params.flag("cache_breakpoints", reason=reason)
    invalid = find_invalid_flag(own)
    if invalid is not None:
        params.refuse(*invalid)
    tags = _read_tags(params, findings)
    if tags:
        own[TAGS] = tags
    organization = params.text("organization")
    block = params.mapping("extra_headers")
    names = Counter(name.lower() for name in block.unread)
    headers: dict[str, str] = {}
    for name in list(block.unread):
        if names[name.lower()] > 1:
            block.refuse(name, "is given twice: header names ignore case")
        else:
            _read_header(name, block, headers, credential)
    if organization is not None and "openai-organization" not in names:
        headers["OpenAI-Organization"] = organization
    body = params.mapping("extra_body")
    extra_body: JsonObject = {}
    for name, value in body.unread.items():
        if name == "model" or gap_of_param(name) is PER_CALL:
            body.refuse(name, PER_CALL.reason)
        else:
            extra_body[name] = _read_body_field(body, name, value, findings)
    parameters: JsonObject = own | ({"extra_headers": headers} if headers else {})
    if extra_body:
        parameters["extra_body"] = extra_body
    for name, value in params.unread.items():
        gap = gap_of_param(name)
        if gap is not None or value is None:
            report_gap(findings, params.at(name), value, gap)
        else:
            parameters[name] = _read_body_field(params, name, value, findings)
    return parameters


def _read_tags(params: Fields, findings: Findings) -> list[Json]:
    value = params.unread.pop(TAGS, None)
    if value in (None, "", []):
        return []
    tags = read_json(value, params.at(TAGS), findings)
    problem = find_tags_problem(tags)
    if problem:
        params.refuse(TAGS, problem)
        return []
    params.honour(TAGS, "the calls that come here, with enable_tag_filtering")
    return list(tags)


def _read_header(name: str, block: Fields, headers: dict[str, str], credential: dict[str, Secret]) -> None:
    raw = block.unread[name]
    if isinstance(raw, str) and re.search(r"[\r\n\0]", raw):
        block.refuse(name, "a header must not hold a line break or a NUL")
        return
    is_secret = bool(SECRET_HEADER.search(name)) or isinstance(raw, FromEnvironment)
    text = block.text(name, reason=f"sent with each upstream request{', and stored encrypted' if is_secret else ''}")
    if not _HEADER_NAME.fullmatch(name):
        block.refuse(name, "is not a valid header name")
    elif name.lower() in _FRAMING_HEADERS:
        block.refuse(name, "the gateway sets this header")
    elif text is not None and is_secret:
        credential[HEADER_PREFIX + name] = Secret(text)
    elif text is not None:
        headers[name] = text


def _read_body_field(fields: Fields, name: str, value: Value, findings: Findings) -> Json:
    if _holds_secret(name, value):
        fields.refuse(name, "a credential in the body cannot be stored encrypted; use api_key or extra_headers")
        return None
    is_unsealed = any(isinstance(item, FromEnvironment) for _, item in _leaves(name, value))
    reason = f"sent in the body of each upstream request{', and stored in clear text' if is_unsealed else ''}"
    fields.honour(name, reason, is_warning=is_unsealed)
    return read_json(value, fields.at(name), findings)


def _holds_secret(name: str, value: Value) -> bool:
    return any(is_secret_field(leaf) and isinstance(item, str | FromEnvironment) for leaf, item in _leaves(name, value))


def _leaves(name: str, value: Value) -> Iterator[tuple[str, Value]]:
    """Each value that is neither a mapping nor a list, with its key or the key of the list around it."""
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _leaves(inner, item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(name, item)
    else:
        yield name, value


def _read_info(info: Fields, findings: Findings) -> JsonObject:
    result: JsonObject = {}
    for name, value in info.unread.items():
        gap = gap_of_info(name)
        if any(
            is_secret_field(leaf) and isinstance(item, str | FromEnvironment) for leaf, item in _leaves(name, value)
        ):
            info.refuse(name, "looks like a credential, and model_info is stored in clear text; leave it out")
            continue
        if gap is None:
            info.honour(name, "stored with the deployment")
        else:
            report_gap(findings, info.at(name), value, gap)
        plain = read_json(value, info.at(name), findings)
        if plain is not None:
            result[name] = plain
    wrong = find_invalid_ability(result)
    if wrong:
        info.refuse(wrong, "must be true, false or null")
    flags = result.get("capabilities")
    if flags is not None and not isinstance(flags, dict):
        info.refuse("capabilities", "must be a mapping")
    for flag in sorted(set(flags) - CAPABILITIES if isinstance(flags, dict) else ()):
        info.refuse(f"capabilities.{flag}", f"is unknown; known: {', '.join(sorted(CAPABILITIES))}")
    invalid = find_invalid_flag(flags) if isinstance(flags, dict) else None
    if invalid is not None:
        info.refuse(f"capabilities.{invalid[0]}", invalid[1])
    return result


def _share_calls(drafts: list[_Draft], findings: Findings) -> None:
    """Sets weight and order within each model group, as LiteLLM's simple-shuffle does."""
    groups = defaultdict(list)
    for draft in drafts:
        groups[draft.entry.model_group].append(draft)
    for siblings in groups.values():
        source = None
        if len(siblings) > 1 and all(draft.weight is None for draft in siblings):
            source = next((name for name in ("rpm", "tpm") if all(draft.limits[name] for draft in siblings)), None)
        # An item without an order is tried after those that have one.
        highest = max((draft.order for draft in siblings if draft.order is not None), default=-1)
        for draft in siblings:
            limit = draft.limits[source] if source is not None else None
            if limit is not None:
                draft.weight = float(limit)
                place = f"{draft.entry.place}.litellm_params.weight"
                findings.honour(place, f"not given: {source} is the weight")
            elif draft.weight is None:
                draft.weight = 1.0
            if draft.order is None:
                draft.order = min(highest + 1, MAX_COUNT)


def _identify(drafts: list[_Draft], findings: Findings) -> Iterator[DeploymentEntry]:
    """The entries with their ids: model_info.id, or a digest that does not depend on the credential."""
    places: dict[str, str] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for draft in drafts:
        entry = draft.entry
        if draft.id is None:
            identity = (entry.model_group, entry.provider, entry.upstream_model, draft.written_base)
            text = json.dumps([*identity, counts[identity]], ensure_ascii=False)
            counts[identity] += 1
            draft.id = f"config-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
        if draft.id in places:
            findings.refuse(f"{entry.place}.model_info.id", f"is the id of {places[draft.id]} too")
            continue
        places[draft.id] = entry.place
        yield replace(entry, id=draft.id, weight=draft.weight or 0.0, order=draft.order or 0)
