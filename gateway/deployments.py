"""Writing deployments: the one way in for config.yaml, the console and the management API."""

from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation

from django.db.models import Q
from django.utils import timezone
from django_scopes import scopes_disabled

from billing.catalogue.lines import MAX_DECIMALS, MAX_LINES, TOKENS, PriceLine, has_too_many_decimals, is_line
from billing.catalogue.litellm import MAX_USD
from billing.models import Price
from billing.own_prices import add_version, end_versions
from billing.price_terms import check_begin
from billing.pricing import PriceLines
from gateway.models import Deployment
from gateway.models.encryption import CredentialUnusable, seal, unseal
from gateway.protocol.abilities import find_invalid_ability
from gateway.protocol.capabilities import find_invalid_flag
from gateway.protocol.deployment_tags import TAGS, find_tags_problem
from gateway.protocol.json.types import JsonMapping, JsonObject
from gateway.protocol.provider import BODY_PREFIX, HEADER_PREFIX
from gateway.protocol.secret_fields import find_secret, has_user, split_secrets
from gateway.providers.registry import PROVIDERS
from gateway.routing.model_patterns import find_pattern_problem
from gateway.stores.deployment_prices import own_prices_in_force
from gateway.upstream.addresses import is_denied_url
from tenants.audit import Entry, audited, record
from tenants.invalid import ArgumentInvalid, KeyInvalid
from tenants.limits import change_limits, delete_limits, render_scopes, usd_or_none
from tenants.models import DEFAULT_ORGANIZATION, Budget, Organization, Scope
from tenants.revision import bump_revision, changed_deployment, write_transaction

#: Parameters that, besides the provider and its address, determine the host that a credential is sent to.
ADDRESS_PARAMETERS = ("aws_bedrock_runtime_endpoint", "aws_region_name")

#: The fields of the budget of a deployment.
BUDGET_FIELDS = ("max_budget", "budget_duration")
#: The names of the credentials that the providers know.
OWN_SECRETS = frozenset({"api_key"}).union(*(provider.own_secrets for provider in PROVIDERS.values()))


class DeploymentInvalid(ArgumentInvalid):
    """An argument that no deployment can have."""


def read_price(name: str, value: object) -> str:
    """An amount in USD per token as exact decimal text. Raises DeploymentInvalid, also for a float (inexact)."""
    if isinstance(value, float | bool) or not isinstance(value, int | str | Decimal):
        raise DeploymentInvalid(name, "must be a decimal number, given as text")
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise DeploymentInvalid(name, f"is not a number: {value!r}") from None
    at_most = 1 if PriceLine.read(name, "0").component in TOKENS else MAX_USD
    if not amount.is_finite() or not 0 <= amount <= at_most:
        raise DeploymentInvalid(name, f"must be between 0 and {at_most} USD per unit")
    if has_too_many_decimals(amount):
        raise DeploymentInvalid(name, f"has more than {MAX_DECIMALS} decimals")
    return f"{amount:f}"


def save_deployment(
    deployment: Deployment,
    *,
    credential: Mapping[str, str | None] | None = None,
    price_lines: dict[str, object] | None = None,
    price_origin: Price.Origin = Price.Origin.DEPLOYMENT,
    budget: JsonMapping | None = None,
    keep_foreign_seals: bool = False,
) -> Deployment:
    """Validate and store a new or changed deployment, its sealed credential and its price version.

    `credential` None keeps the stored one, {} removes it; a value of None keeps the stored one of that name. A stored
    credential is never sent to another provider or address: then the caller must enter it again. A credential among
    the parameters is sealed with the others.
    `price_lines` None keeps the price; a dict of {line: USD per token} makes a new price version where it differs from
    the price in force, in the place of all that begin at a date; {} leaves the deployment without a price.
    `budget` has `max_budget` and `budget_duration`, as `read_budgets` returns them; None keeps the budget.
    `keep_foreign_seals` keeps the seals of other installations, because each loads the same file for itself.
    Raises DeploymentInvalid.
    """
    _check_fields(deployment)
    with write_transaction():
        with scopes_disabled():  # the row itself, as it is now
            stored = Deployment.objects.select_for_update().filter(id=deployment.id).first()
        _refuse_clear_text(stored, deployment)
        deployment.parameters, secrets = split_secrets(deployment.parameters, OWN_SECRETS)
        if secrets:
            credential = keep_other_parts(deployment, secrets) if credential is None else {**credential, **secrets}
        if stored is not None:
            _refuse_redirection(stored, deployment, credential)
            deployment.credential, deployment.price_id = stored.credential, stored.price_id
        old_parts = _open_parts(stored)
        if credential is not None:
            deployment.credential = _seal(deployment, credential, keep_foreign_seals=keep_foreign_seals)
        _refuse_unusable_parameters(stored, deployment)
        if stored is None:  # one of the same id may have been deleted
            end_versions([deployment.id])
        if price_lines is not None:
            _change_price(deployment, price_lines, price_origin)
        with audited("create" if stored is None else "update", deployment):
            deployment.save()
        _audit_credential(deployment, old_parts)
        _change_budget(deployment, stored, budget)
        bump_revision(changed_deployment(deployment.id))
    return deployment


def prepare_unsaved(
    deployment: Deployment, *, credential: Mapping[str, str | None], price_lines: dict[str, object]
) -> None:
    """Makes of a deployment that stays unsaved what `save_deployment` would have made of it: checked, its credential
    sealed, with a version of its price. Raises DeploymentInvalid."""
    _check_fields(deployment)
    _refuse_clear_text(None, deployment)
    deployment.parameters, secrets = split_secrets(deployment.parameters, OWN_SECRETS)
    deployment.credential = _seal(deployment, {**credential, **secrets}, keep_foreign_seals=False)
    _refuse_unusable_parameters(None, deployment)
    _change_price(deployment, price_lines)
    deployment.created_at = timezone.now()


def _check_fields(deployment: Deployment) -> None:
    provider = PROVIDERS.get(deployment.provider)
    if provider is None:
        raise DeploymentInvalid(
            "provider", f"{deployment.provider!r} is unknown; known: {', '.join(sorted(PROVIDERS))}"
        )
    if not deployment.model_group or not deployment.upstream_model:
        raise DeploymentInvalid("model", "both the public name and the upstream model are needed")
    problem = find_pattern_problem(deployment.model_group, deployment.upstream_model)
    if problem is not None:
        raise DeploymentInvalid(*problem)
    for name in ("parameters", "model_info"):
        if not isinstance(getattr(deployment, name), dict):
            raise DeploymentInvalid(name, "must be an object")
    deployment.api_base = (deployment.api_base or provider.default_api_base).rstrip("/")
    if provider.needs_api_base and not deployment.api_base.startswith(("http://", "https://")):
        raise DeploymentInvalid("api_base", f"{deployment.provider} needs an http:// or https:// address")
    for name in ("extra_headers", "extra_body"):
        if not isinstance(deployment.parameters.get(name, {}), dict):
            raise DeploymentInvalid("parameters", f"{name} must be an object")
    _refuse_invalid_flags(deployment)
    _refuse_denied_addresses(deployment)
    if deployment.weight < 0:
        raise DeploymentInvalid("weight", "must not be negative")


def set_price(model: str, lines: Mapping[str, str], begin: datetime | None = None) -> list[Deployment]:
    """Gives all deployments of a model group, or the one with this id, a new price; no lines: none of their own. It is
    in force from `begin` on, which may have passed, and what was until then stays; without it at once, in the place of
    all prices that they have had. Rows that are priced keep their cost. Raises DeploymentInvalid and PriceInvalid."""
    check_begin(begin)
    with write_transaction():
        rows = find_deployments(model)
        prices = Price.objects.in_bulk([row.price_id for row in rows if row.price_id])
        for row in rows:
            price = prices.get(row.price_id)
            if row.source == Deployment.Source.CONFIG and price is not None and price.origin != Price.Origin.SET:
                raise DeploymentInvalid("model", f"the price of {row.id} stands in config.yaml; change it there")
        if begin is None:
            end_versions([row.id for row in rows])
            return [save_deployment(row, price_lines=dict(lines), price_origin=Price.Origin.SET) for row in rows]
        checked = _read_lines(lines)
        for row in rows:
            add_version(row.id, checked, begin)
            bump_revision(changed_deployment(row.id))
        return rows


def set_base_model(model: str, base_model: str) -> list[Deployment]:
    """Says which model stands behind the deployments of a group, or behind the one with this id. Raises
    DeploymentInvalid."""
    with write_transaction():
        rows = find_deployments(model)
        for row in rows:
            if row.source == Deployment.Source.CONFIG:
                raise DeploymentInvalid("model", f"{row.id} stands in config.yaml; write model_info.base_model there")
            row.model_info = {**row.model_info, "base_model": base_model}
        return [save_deployment(row) for row in rows]


def find_deployments(model: str) -> list[Deployment]:
    """The deployments of a model group, or the one with this id. Raises DeploymentInvalid where there is none."""
    with scopes_disabled():  # the platform's prices span all organizations
        rows = list(Deployment.objects.filter(Q(model_group=model) | Q(id=model)).order_by("id"))
    if not rows:
        raise DeploymentInvalid("model", f"there is no model group and no deployment {model!r}")
    return rows


def sealed_names(deployment: Deployment) -> list[str]:
    """The names of the credential's parts; none if it cannot be opened."""
    try:
        return sorted(unseal(context=deployment.id, sealed=deployment.credential))
    except CredentialUnusable:
        return []


def keep_other_parts(deployment: Deployment, parts: Mapping[str, str]) -> dict[str, str | None]:
    """The credential for `save_deployment` that replaces `parts` only; the whole one at another address."""
    with scopes_disabled():
        stored = Deployment.objects.filter(id=deployment.id).first()
    if stored is None or _destination(stored) != _destination(deployment):
        return dict(parts)
    return dict.fromkeys(sealed_names(stored)) | dict(parts)


def delete_deployment(deployment: Deployment) -> None:
    changed = changed_deployment(deployment.id)
    with write_transaction():
        with audited("delete", deployment):
            with scopes_disabled():  # a shared one's are the default organization's
                delete_limits(owner_of(deployment), Scope.DEPLOYMENT, [deployment.id])
            deployment.delete()
        bump_revision(changed)


def owner_of(deployment: Deployment) -> str:
    """The organization that the budgets of a deployment belong to."""
    return deployment.organization_id or DEFAULT_ORGANIZATION


def read_budgets(deployments: Collection[Deployment]) -> dict[str, JsonObject]:
    """The budget of each deployment by its id: `max_budget`, exact decimal text in USD, and `budget_duration`; None
    where there is none."""
    places = {row.id: (owner_of(row), row.id) for row in deployments}
    fields = render_scopes(Scope.DEPLOYMENT, list(places.values()), amount=usd_or_none)
    return {name: {key: fields[place][key] for key in BUDGET_FIELDS} for name, place in places.items()}


def _change_budget(deployment: Deployment, stored: Deployment | None, budget: JsonMapping | None) -> None:
    """A deployment that another organization gets takes its budget with it."""
    owner = owner_of(deployment)
    with scopes_disabled():  # a shared one's are the default organization's
        if stored is not None and owner_of(stored) != owner:
            rows = Budget.objects.filter(scope=Scope.DEPLOYMENT, scope_id=deployment.id)
            rows.filter(organization=owner_of(stored)).update(organization=owner)
        if budget is None:
            return
        try:
            change_limits(Organization.objects.get(id=owner), Scope.DEPLOYMENT, deployment.id, budget)
        except KeyInvalid as error:
            raise DeploymentInvalid(error.param, error.message) from None


def _open_parts(deployment: Deployment | None) -> Mapping[str, str]:
    """The parts of the credential; none where there is none, or it cannot be opened."""
    try:
        parts = unseal(context=deployment.id, sealed=deployment.credential) if deployment is not None else {}
    except CredentialUnusable:
        return {}
    return {name: secret.reveal() for name, secret in parts.items()}


def _audit_credential(deployment: Deployment, old_parts: Mapping[str, str]) -> None:
    """Records which parts of the credential changed, by their names."""
    parts = _open_parts(deployment)
    changed = sorted(name for name in {*old_parts, *parts} if old_parts.get(name) != parts.get(name))
    if changed:
        old, new = {"parts": sorted(old_parts)}, {"parts": sorted(parts), "changed": changed}
        record(Entry("credential", "deployment", deployment.id, deployment.organization_id, old, new))


def _refuse_invalid_flags(deployment: Deployment) -> None:
    invalid = find_invalid_flag(deployment.parameters)
    if invalid is not None:
        raise DeploymentInvalid(*invalid)
    tags_problem = find_tags_problem(deployment.parameters.get(TAGS, []))
    if tags_problem:
        raise DeploymentInvalid("parameters", f"{TAGS} {tags_problem}")
    ability = find_invalid_ability(deployment.model_info)
    if ability:
        raise DeploymentInvalid("model_info", f"{ability} must be true, false or null")
    flags = deployment.model_info.get("capabilities")
    invalid = find_invalid_flag(flags) if isinstance(flags, dict) else None
    if invalid is not None:
        raise DeploymentInvalid("model_info", f"capabilities.{invalid[0]} {invalid[1]}")


def _refuse_denied_addresses(deployment: Deployment) -> None:
    _, api_base, *others = _destination(deployment)
    for name, url in zip(("api_base", *ADDRESS_PARAMETERS), (api_base, *others), strict=True):
        if is_denied_url(str(url)):
            raise DeploymentInvalid(name, "is a link-local or metadata address; no upstream is there")


def _refuse_clear_text(stored: Deployment | None, changed: Deployment) -> None:
    """Refuses a new credential where no seal would hold it. One that an earlier version stored there stays."""
    old = () if stored is None else _destination(stored)
    for name, url in zip(("api_base", *ADDRESS_PARAMETERS), _destination(changed)[1:], strict=True):
        if has_user(str(url)) and url not in old:
            raise DeploymentInvalid(name, "must not hold a user or a password; use api_key or extra_headers")
    secret = find_secret(changed.model_info)
    if secret is not None and (stored is None or stored.model_info != changed.model_info):
        raise DeploymentInvalid(
            "model_info", f"{secret!r} looks like a credential, and model_info is stored in clear text; leave it out"
        )


def _refuse_redirection(stored: Deployment, changed: Deployment, credential: Mapping[str, str | None] | None) -> None:
    """A user who changes an address must not have a credential sent there that another user entered."""
    retained = None if credential is None else sorted(name for name, value in credential.items() if value is None)
    if not stored.credential or retained == [] or _destination(stored) == _destination(changed):
        return
    named = ", ".join(name.removeprefix(HEADER_PREFIX) for name in retained or ())
    raise DeploymentInvalid(
        "api_key",
        f"the stored credential{f' ({named})' if named else ''} would be sent to another address or provider; "
        "give it again, or remove it",
    )


def _refuse_unusable_parameters(stored: Deployment | None, changed: Deployment) -> None:
    """Refuses what the provider cannot use, and a deployment of an organization without credentials of its own. What an
    earlier version stored does not stand in the way of another change: its calls are refused (upstream/tokens.py)."""
    problem = _find_unusable_parameter(changed)
    if problem is not None and (stored is None or problem != _find_unusable_parameter(stored)):
        raise DeploymentInvalid(*problem)


def _find_unusable_parameter(deployment: Deployment) -> tuple[str, str] | None:
    provider = PROVIDERS.get(deployment.provider)
    if provider is None:
        return None
    try:
        parts = unseal(context=deployment.id, sealed=deployment.credential)
    except CredentialUnusable:
        return None  # it makes no call at all
    sealed_fields = {name.removeprefix(BODY_PREFIX): True for name in parts if name.startswith(BODY_PREFIX)}
    secrets, parameters = [name for name, secret in parts.items() if secret], _target_parameters(deployment)
    parameters |= sealed_fields
    borrowed = provider.find_borrowed_identity(secrets, parameters) if deployment.organization_id is not None else None
    return borrowed or provider.find_invalid_parameter(secrets, parameters)


def _target_parameters(deployment: Deployment) -> JsonObject:
    """The parameters as a target has them, but for those that are sealed."""
    parameters = deployment.parameters if isinstance(deployment.parameters, dict) else {}
    body = parameters.get("extra_body")
    return parameters | (body if isinstance(body, dict) else {})


def _destination(deployment: Deployment) -> tuple[object, ...]:
    parameters = _target_parameters(deployment)
    addresses = (parameters.get(name) or "" for name in ADDRESS_PARAMETERS)
    provider = PROVIDERS.get(deployment.provider)
    api_base = deployment.api_base or (provider.default_api_base if provider else "")
    return deployment.provider, api_base.rstrip("/"), *addresses


def _seal(deployment: Deployment, credential: Mapping[str, str | None], *, keep_foreign_seals: bool) -> str:
    """The sealed credential. An unchanged one is not sealed again: the ciphertext would differ each time."""
    current: dict[str, str] | None = None
    try:
        opened = unseal(context=deployment.id, sealed=deployment.credential)
        current = {name: secret.reveal() for name, secret in opened.items()}
    except CredentialUnusable:
        if None in credential.values():
            raise DeploymentInvalid(
                "api_key", "the stored credential cannot be opened; give it again, or remove it"
            ) from None
    stored = current or {}
    retained = {name: stored[name] for name, value in credential.items() if value is None and name in stored}
    values = retained | {name: value for name, value in credential.items() if value is not None}
    if values == current:
        return deployment.credential
    beside = deployment.credential if keep_foreign_seals else ""
    return seal(context=deployment.id, values=values, beside=beside)


def _change_price(
    deployment: Deployment, price_lines: Mapping[str, object], origin: Price.Origin = Price.Origin.DEPLOYMENT
) -> None:
    """A price that is in force already stays, and so do those that begin later."""
    lines = _read_lines(price_lines)
    current = own_prices_in_force([deployment]).get(deployment.id)
    if lines == (current.lines if current is not None else {}):
        return
    end_versions([deployment.id])
    price = Price.objects.create(deployment_id=deployment.id, lines=lines, origin=origin) if lines else None
    deployment.price_id = price.id if price is not None else ""


def _read_lines(price_lines: Mapping[str, object]) -> dict[str, str]:
    """Line → USD per unit. Raises DeploymentInvalid."""
    unknown = [name for name in price_lines if not is_line(name)]
    if unknown or len(price_lines) > MAX_LINES:
        raise DeploymentInvalid(min(unknown, default="price_lines"), "is not a price line")
    lines = {name: read_price(name, value) for name, value in sorted(price_lines.items())}
    try:
        PriceLines.read(lines)
    except ValueError as error:
        raise DeploymentInvalid("price_lines", str(error)) from None
    return lines
