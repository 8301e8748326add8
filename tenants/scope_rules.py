"""The rules of end users and tags, which a request names, cached in memory until they change."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TypeVarTuple

from django.db import Error as DatabaseError
from django_scopes import scopes_disabled

from gateway.pipeline.ports import NO_RULES, Principal, Rules
from gateway.protocol.call import Call
from gateway.protocol.errors import Forbidden
from gateway.routing.model_patterns import covers
from tenants.change_cache import ChangeCache, RunningLoads
from tenants.database import InThread, database_away
from tenants.models import Budget, BudgetTemplate, EndUser, Organization, RateLimit, Scope
from tenants.revision import (
    END_USER,
    TAG,
    Changed,
    changed_end_user,
    changed_organization,
    changed_tag,
    changed_template,
    organization_of,
)
from tenants.rules import Holder, load_rules

MAX_ENTRIES = 5_000  # about 1 KB each
MAX_READS = 3  # of rules that change while they are read
NAMED_SCOPES = "named_scopes"  # of an organization: the kind of the key of its entry

Arguments = TypeVarTuple("Arguments")


@dataclass(frozen=True, slots=True)
class Entry:
    """`scopes` of an organization: the kinds of scopes with rules there that a call names. `allowed_models`: empty
    allows every model."""

    rules: Rules = NO_RULES
    is_blocked: bool = False
    allowed_models: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    depends_on: tuple[Changed, ...] = ()


class ScopeRulesDirectory:
    """Implements tenants.admission.ScopeRules."""

    def __init__(self, *, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._entries: ChangeCache[Entry] = ChangeCache(MAX_ENTRIES)
        self._loading: dict[Changed, asyncio.Task[Entry]] = {}
        self._loads = RunningLoads()

    def forget(self, changes: Collection[Changed]) -> None:
        """The next call that names one of these things reads its rules again."""
        named = {_named_scopes(organization_of(change)) for change in changes if change.kind in {END_USER, TAG}}
        changes = named.union(changes)
        self._entries.forget(changes)
        self._loads.note(changes)

    async def find(self, principal: Principal, call: Call) -> Rules:
        rules = NO_RULES
        organization_id = principal.organization_id
        scopes = (await self._find(_named_scopes(organization_id), _load_scopes, organization_id)).scopes
        if call.end_user and Scope.END_USER in scopes:
            key = changed_end_user(organization_id, call.end_user)
            entry = await self._find(key, _load_end_user, organization_id, call.end_user)
            if entry.is_blocked:
                raise Forbidden(f"The end user '{call.end_user}' is blocked.", param="user", code="end_user_blocked")
            if entry.allowed_models and not covers(entry.allowed_models, principal.resolve_model(call.model)):
                raise Forbidden(
                    f"The requested model '{call.model}' is not available for the end user '{call.end_user}'.",
                    param="model",
                    code="model_not_found",
                )
            rules = entry.rules
        if Scope.TAG in scopes:
            for tag in dict.fromkeys(call.tags):
                key = changed_tag(organization_id, tag)
                rules += (await self._find(key, _load_tag, organization_id, tag)).rules
        return rules

    async def _find(self, key: Changed, load: Callable[[*Arguments], Entry], *arguments: *Arguments) -> Entry:
        known = self._entries.get(key)
        if known is not None and known.is_fresh:
            return known.value
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.create_task(self._load(key, partial(load, *arguments)))
            loading.add_done_callback(lambda task: self._end_load(key, task))
        try:
            return await asyncio.shield(loading)  # a client that leaves must not cancel it for the others
        except DatabaseError:
            if known is not None:
                return known.value
            raise database_away("check limits") from None

    async def _load(self, key: Changed, load: Callable[[], Entry]) -> Entry:
        """Reads the rules, and again where they changed meanwhile: callers wait who came after the change."""
        for _ in range(MAX_READS):
            with self._loads.begin() as changes:
                entry = await self._in_thread(load)
            if self._entries.put(key, entry, entry.depends_on, changes):
                break
        return entry

    def _end_load(self, key: Changed, task: asyncio.Task[Entry]) -> None:
        self._loading.pop(key, None)
        if not task.cancelled():
            task.exception()  # its callers may have gone


def _named_scopes(organization_id: str) -> Changed:
    return Changed(NAMED_SCOPES, organization_id)


def _load_scopes(organization_id: str) -> Entry:
    """The organization's: the scopes with rules that its calls may name. End users also have some where one is blocked
    or restricted, or all of them have a default budget."""
    with scopes_disabled():  # the organization is the principal's
        limits, budgets = (
            rows.filter(organization=organization_id, scope__in=(Scope.END_USER, Scope.TAG))
            .order_by()
            .values_list("scope")
            for rows in (RateLimit.objects, Budget.objects)
        )
        scopes = {scope for (scope,) in limits.union(budgets)}
        users = EndUser.objects.filter(organization=organization_id)
        defaults = BudgetTemplate.objects.filter(organization=organization_id, is_end_user_default=True)
        restricted = users.exclude(blocked=False, allowed_models=[], budget_template=None)
        if Scope.END_USER not in scopes and (defaults.exists() or restricted.exists()):
            scopes.add(Scope.END_USER)
    return Entry(scopes=frozenset(scopes), depends_on=(changed_organization(organization_id),))


def _load_tag(organization_id: str, tag: str) -> Entry:
    with scopes_disabled():  # the organization is the principal's
        organization = Organization.objects.get(id=organization_id)
        rules = load_rules(organization, [Holder(Scope.TAG, tag)])
    return Entry(rules, depends_on=(changed_organization(organization_id),))


def _load_end_user(organization_id: str, name: str) -> Entry:
    with scopes_disabled():  # the organization is the principal's
        organization = Organization.objects.get(id=organization_id)
        user = EndUser.objects.filter(organization=organization, external_id=name).first()
        template_id = user.budget_template_id if user is not None else None
        if template_id is None:
            default = BudgetTemplate.objects.filter(organization=organization, is_end_user_default=True).first()
            template_id = default.id if default is not None else None
        rules = load_rules(organization, [Holder(Scope.END_USER, name, template_id)])
    things = [changed_organization(organization_id)]
    if template_id is not None:
        things.append(changed_template(template_id))
    if user is None:
        return Entry(rules, depends_on=tuple(things))
    return Entry(rules, user.blocked, frozenset(user.allowed_models), depends_on=tuple(things))
