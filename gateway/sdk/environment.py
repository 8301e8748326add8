"""The environment variables in which users keep the credentials and addresses of providers.

A variable is named after the provider (`OPENAI_API_KEY`, `AZURE_API_BASE`), or is the one that the provider's own
tools read (`AWS_REGION`).
"""

import os
import re
from collections.abc import Mapping

from gateway.protocol.provider import Provider
from gateway.upstream.proxy import ProxyRules

#: Parameter → the variables that may hold it, the first choice first; `{}` is the provider's name.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "api_version": ("{}_API_VERSION",),
    "azure_ad_token": ("AZURE_AD_TOKEN",),
    "tenant_id": ("AZURE_TENANT_ID",),
    "client_id": ("AZURE_CLIENT_ID",),
    "client_secret": ("AZURE_CLIENT_SECRET",),
    "aws_access_key_id": ("AWS_ACCESS_KEY_ID",),
    "aws_secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
    "aws_session_token": ("AWS_SESSION_TOKEN",),
    "aws_region_name": ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION"),
    "aws_bedrock_runtime_endpoint": ("AWS_BEDROCK_RUNTIME_ENDPOINT",),
    "vertex_project": ("VERTEXAI_PROJECT", "VERTEX_PROJECT", "GOOGLE_CLOUD_PROJECT"),
    "vertex_location": ("VERTEXAI_LOCATION", "VERTEX_LOCATION", "GOOGLE_CLOUD_LOCATION"),
    "vertex_credentials": ("VERTEXAI_CREDENTIALS",),
}
KEY = ("{}_API_KEY",)
ADDRESS = ("{}_API_BASE", "{}_BASE_URL")
#: Alternatives of one credential: an argument of either kind keeps the environment's out.
API_KEY = "api_key"


def environment() -> Mapping[str, str]:
    return os.environ


def add_from_environment(
    params: Mapping[str, object], provider: Provider, environ: Mapping[str, str]
) -> dict[str, object]:
    """The parameters of a deployment, with what they lack from the environment. A credential is never put together
    from both: one argument of it keeps all of the environment's out."""
    found = dict(params)
    if not any(params.get(name) for name in ("api_base", "base_url")):
        _add(found, "api_base", ADDRESS, provider, environ)
    secrets = {API_KEY, *provider.own_secrets}
    if not any(params.get(name) for name in secrets):
        _add(found, API_KEY, KEY, provider, environ)
        for name in sorted(provider.own_secrets) if API_KEY not in found else ():
            _add(found, name, VARIABLES.get(name, ()), provider, environ)
    for name in sorted(provider.own_parameters):
        if params.get(name) is None:
            _add(found, name, VARIABLES.get(name, ()), provider, environ)
    return found


def _add(
    found: dict[str, object], name: str, variables: tuple[str, ...], provider: Provider, environ: Mapping[str, str]
) -> None:
    prefix = re.sub("[^A-Z0-9]", "_", provider.name.upper())
    for variable in variables:
        value = environ.get(variable.format(prefix), "").strip()
        if value:
            found[name] = value
            return


def find_proxies() -> ProxyRules:
    """The HTTP proxies for upstreams, from the usual variables. Raises ValueError for one that cannot be used."""
    environ = environment()
    urls = {}
    for scheme in ("http", "https"):
        names = [form for name in (f"{scheme}_proxy", "all_proxy") for form in (name, name.upper())]
        urls[scheme] = next((url for name in names if (url := environ.get(name))), "")
    direct = environ.get("no_proxy") or environ.get("NO_PROXY", "")
    return ProxyRules(urls, [entry for entry in direct.split(",") if entry.strip()])
