"""Deployments of the SDK: those of a model_list, and those that the arguments of one call describe."""

import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import orjson

from billing.ranking import ranking_prices
from gateway.config.environment import PREFIX as FROM_ENVIRONMENT
from gateway.config.environment import Environment
from gateway.config.model_list import DeploymentEntry, find_prefix, read_models
from gateway.config.report import Findings, Kind, Problem, Report
from gateway.config.yaml_file import Section, from_json
from gateway.protocol.errors import BadRequest, ClientFault, Unauthorized
from gateway.protocol.provider import Target
from gateway.providers.registry import PREFIXES
from gateway.routing.deployment_target import DeploymentUnusable, make_target
from gateway.sdk.environment import add_from_environment
from gateway.sdk.prices import PriceBook

logger = logging.getLogger(__name__)

MAX_DIRECT = 1000  # deployments that arguments have described, and whose health is known
MAX_ID_CHARS = 200
_SALT = secrets.token_bytes(32)  # the ids tell nothing of the credentials


def read_model_list(items: Sequence[Mapping[str, object]], environ: Mapping[str, str]) -> tuple[DeploymentEntry, ...]:
    """The deployments of a Router's model_list. Raises BadRequest, which names every problem; what has no effect is
    logged."""
    findings = Findings()
    entries = _read(items, environ, findings)
    if findings.problems:
        raise _refuse(findings.problems, str)
    report_ignored(findings.reports)
    return entries


def report_ignored(reports: Iterable[Report]) -> None:
    """Logs the keys of a configuration that have no effect, by their places."""
    for report in reports:
        if report.kind is Kind.UNSUPPORTED or report.is_warning:
            logger.warning("%s", report)


def _read(
    items: Sequence[Mapping[str, object]], environ: Mapping[str, str], findings: Findings
) -> tuple[DeploymentEntry, ...]:
    environment = Environment(environ, findings)
    places = [(f"model_list[{index}]", item) for index, item in enumerate(items)]
    section = Section("model_list", [], tuple((place, from_json(item)) for place, item in places))
    return read_models(environment.resolve_section(section), environment, findings)


def _refuse(problems: Sequence[Problem], name: Callable[[str], str]) -> ClientFault:
    """`name`: of a place, as the caller knows it. A missing credential is an error of authentication, as in the clients
    of the providers."""
    text = "; ".join(f"{name(problem.place)}: {problem.message}" for problem in problems)
    param = name(problems[0].place)
    if param.endswith("api_key") and problems[0].message.startswith("is needed"):
        return Unauthorized(f"{text}.", param=param)
    return BadRequest(f"{text}.", param=param, code="invalid_value")


def _argument(place: str) -> str:
    """The argument of a call that a place of its item stands for."""
    name = place.partition("].")[2].removeprefix("litellm_params.")
    return "model" if name == "model_name" else name


def target_of(entry: DeploymentEntry, prices: PriceBook) -> Target:
    """Raises BadRequest."""
    try:
        price_id = prices.add(entry)
        target = make_target(entry, entry.credential, price_id=price_id)
    except (DeploymentUnusable, ValueError) as error:
        raise BadRequest(f"{entry.model_group}: {error}", param="model") from None
    return replace(target, prices=ranking_prices(prices.find(price_id)), model_prices=prices.models_of(entry))


class DirectDeployments:
    """The deployments that calls describe by their arguments, the latest ones. `forget` is told those that are
    dropped."""

    def __init__(self, prices: PriceBook, forget: Callable[[Sequence[str]], None]) -> None:
        self._prices = prices
        self._forget = forget
        self._targets: OrderedDict[bytes, Target] = OrderedDict()

    def find(self, model: str, params: Mapping[str, object], environ: Mapping[str, str]) -> Target:
        """The deployment of `provider/name` with these parameters, and with what they lack from the environment.
        Raises BadRequest naming the argument."""
        if model.startswith(FROM_ENVIRONMENT):  # a program may let its users choose: they would get the variable
            raise BadRequest("The name of a model is never read from the environment.", param="model")
        chosen = params.get("custom_llm_provider")
        provider = PREFIXES.get(chosen if isinstance(chosen, str) else find_prefix(model))
        if provider is not None:
            params = add_from_environment(params, provider, environ)
        key = _digest(model, params)
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = self._make(model, params, environ, key)
            if len(self._targets) > MAX_DIRECT:
                _, oldest = self._targets.popitem(last=False)
                self._prices.forget([oldest.deployment_id])
                self._forget([oldest.deployment_id])
        else:
            self._targets.move_to_end(key)
        return target

    def _make(self, model: str, params: Mapping[str, object], environ: Mapping[str, str], key: bytes) -> Target:
        info = {"id": f"{model[:MAX_ID_CHARS]}#{key.hex()[:12]}"}
        item = {"model_name": model, "litellm_params": {"model": model, **params}, "model_info": info}
        findings = Findings()
        entries = _read([item], environ, findings)
        if findings.problems:
            raise _refuse(findings.problems, _argument)
        for report in findings.reports:
            if report.kind is Kind.UNSUPPORTED:
                raise BadRequest(f"{_argument(report.place)}: {report.reason}.", param=_argument(report.place))
        return target_of(entries[0], self._prices)


def _digest(model: str, params: Mapping[str, object]) -> bytes:
    try:
        text = orjson.dumps([model, params], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:
        raise BadRequest(f"An argument is no value of JSON: {error}.") from None
    return hashlib.blake2b(text, key=_SALT, digest_size=16).digest()
