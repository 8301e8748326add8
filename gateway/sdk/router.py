"""Router: calls to model groups of several deployments, with LiteLLM's constructor and methods."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Self, TypedDict, Unpack

from gateway.config.examination import read_config
from gateway.config.gaps import SETTINGS
from gateway.config.model_list import DeploymentEntry, find_prefix
from gateway.config.report import Kind, Report
from gateway.protocol.errors import Fault
from gateway.protocol.json.types import JsonMapping
from gateway.providers.registry import PREFIXES
from gateway.routing.read_settings import NAMES, read_settings
from gateway.routing.settings import RoutingSettings
from gateway.sdk.calls import Calls
from gateway.sdk.deployments import read_model_list, report_ignored
from gateway.sdk.environment import add_from_environment, environment
from gateway.sdk.options import ROUTER_DEPLOYMENT, Fallbacks, Object
from gateway.sdk.prices import PriceBook
from gateway.sdk.process import PROCESS
from gateway.sdk.router_models import RouterModels, describe

Item = Mapping[str, object]
#: Settings of LiteLLM's Router that change only what it prints or measures, or that the SDK always honours.
HARMLESS = frozenset({"optional_pre_call_checks", "enable_pre_call_checks", "retry_after", "debug_level"})
GAPS = SETTINGS["router_settings"]


class RouterOptions(TypedDict, total=False):
    """LiteLLM's router_settings, see docs/routing.md. What has no effect here is logged."""

    routing_strategy: str | None
    routing_strategy_args: Object | None
    model_group_routing_strategy: Mapping[str, str] | None
    num_retries: int | None
    retry_policy: Mapping[str, int | None] | None
    model_group_retry_policy: Mapping[str, Mapping[str, int | None]] | None
    retry_after: int | None
    fallbacks: Fallbacks | None
    default_fallbacks: Sequence[str] | None
    context_window_fallbacks: Fallbacks | None
    content_policy_fallbacks: Fallbacks | None
    max_fallbacks: int | None
    allowed_fails: int | None
    allowed_fails_policy: Mapping[str, int | None] | None
    cooldown_time: float | None
    disable_cooldowns: bool | None
    timeout: float | None
    stream_timeout: float | None
    connect_timeout: float | None
    stream_idle_timeout: float | None
    max_stream_duration: float | None
    model_group_timeouts: Mapping[str, Mapping[str, float]] | None
    model_group_alias: Mapping[str, str | Object] | None
    hedging: Mapping[str, Object] | None
    enable_tag_filtering: bool | None
    enable_pre_call_checks: bool | None
    optional_pre_call_checks: Sequence[str] | None
    set_verbose: bool | None
    debug_level: str | None
    cache_responses: bool | None


class Router(Calls):
    """Thread-safe. Closes: the owner, as a context manager or with `close()`; else the end of the process.

    Raises ValueError for a configuration that cannot be used, and TypeError for a setting that there is not.
    """

    def __init__(self, model_list: Sequence[Item] | None = None, **settings: Unpack[RouterOptions]) -> None:
        self._open(_read_items(model_list or ()), read_router_settings(settings))

    @classmethod
    def from_config(cls, path: "str | PathLike[str]") -> Self:
        """The Router of a config.yaml: its model_list and router_settings. Keys that only a server has are not used.
        Raises ConfigInvalid, a ValueError that names every problem."""
        config = read_config(str(path), environment())
        report_ignored(config.reports)
        router = cls.__new__(cls)
        router._open(config.deployments, read_router_settings(config.router_settings))
        return router

    def _open(self, entries: Sequence[DeploymentEntry], settings: RoutingSettings) -> None:
        prices = PriceBook(time.time)
        try:
            self._models = RouterModels(entries, settings, prices)
        except Fault as fault:
            raise ValueError(fault.message) from None
        engine = PROCESS.make_engine(self._models, prices)
        super().__init__(engine, PROCESS.background, PROCESS.find_store, ROUTER_DEPLOYMENT)

    def add_deployment(self, deployment: Item) -> str:
        """Adds an item of a model_list; calls that begin from now on may go there. Returns its id."""
        entries = _read_items([deployment])
        if not entries:
            raise ValueError("The deployment is blocked.")
        try:
            return self._models.add(entries[0])
        except Fault as fault:
            raise ValueError(fault.message) from None

    def delete_deployment(self, id: str) -> dict[str, object] | None:
        """Calls under way end there. Returns the deployment; None where there is none of this id."""
        entry = self._models.remove(id)
        if entry is None:
            return None
        self._background.post(partial(self._engine.forget, [id]))
        return describe(entry)

    def get_model_list(self, model_name: str | None = None) -> list[dict[str, object]]:
        """The deployments, or those of one model group, without their credentials."""
        entries = self._models.entries
        return [describe(entry) for entry in entries if model_name in (None, entry.model_group)]

    def get_model_names(self) -> list[str]:
        """The model groups, and the aliases that are not hidden."""
        settings = self._models.settings
        groups = dict.fromkeys(entry.model_group for entry in self._models.entries)
        return [*groups, *sorted(settings.aliases.keys() - settings.hidden_aliases - groups.keys())]

    def close(self) -> None:
        """Closes the connections to upstreams."""
        self._background.run(self._engine.close())

    async def aclose(self) -> None:
        await self._background.wait(self._engine.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def read_router_settings(settings: JsonMapping) -> RoutingSettings:
    """Raises ValueError naming every setting that cannot be used, and TypeError for one that there is not."""
    known = {name: value for name, value in settings.items() if name in NAMES}
    for name in settings.keys() - NAMES - HARMLESS:
        gap = GAPS.get(name)
        if gap is None:
            raise TypeError(f"Router() got an unexpected keyword argument {name!r}")
        if settings[name] and gap.kind is Kind.UNSUPPORTED:
            report_ignored([Report(name, gap.kind, gap.reason, gap.is_warning)])
    found, problems = read_settings(known)
    if problems:
        raise ValueError("; ".join(f"{name} {message}" for name, message in problems))
    return found


def _read_items(items: Sequence[Item]) -> Sequence[DeploymentEntry]:
    """Items of a model_list, with credentials and addresses that they lack from the environment. Raises ValueError."""
    environ = environment()
    filled = [_fill(item) for item in items]
    try:
        return read_model_list(filled, environ)
    except Fault as fault:
        raise ValueError(fault.message) from None


def _fill(item: Item) -> Item:
    params = item.get("litellm_params") if isinstance(item, Mapping) else None
    if not isinstance(params, Mapping):
        return item
    model, chosen = params.get("model"), params.get("custom_llm_provider")
    prefix = chosen if isinstance(chosen, str) else find_prefix(model) if isinstance(model, str) else ""
    provider = PREFIXES.get(prefix)
    if provider is None:
        return item
    return {**item, "litellm_params": add_from_environment(params, provider, environment())}
