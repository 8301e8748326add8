"""The list of an upstream's models, fetched at an administrator's request, in a thread outside the data path.

The request goes to the same host as the deployment's calls, by the same rules: through the same proxy, redirects are
not followed, and the environment of the process (proxies, certificates) is not read.
"""

import socket
import ssl
import time
from functools import lru_cache
from urllib.parse import urlsplit

import httpx

from gateway.protocol.attempt_context import AttemptContext
from gateway.protocol.errors import ConnectFault, UpstreamFault
from gateway.protocol.listing import ListRequest, ModelLister, ModelPage
from gateway.protocol.provider import Target
from gateway.upstream.addresses import EgressDenied, check_resolved
from gateway.upstream.proxy import NO_PROXIES, REFUSED_LOGIN, ProxyRules
from gateway.upstream.tokens import fetch_token

MAX_WAIT_S = 20.0  # for all pages
MAX_BYTES = 8 * 1024 * 1024  # of one page
MAX_PAGES = 50
PIECE_BYTES = 64 * 1024


def list_models(target: Target, *, connect_timeout_s: float, proxies: ProxyRules = NO_PROXIES) -> list[str] | None:
    """The sorted names of the models; None where the provider offers no list. Raises UpstreamFault."""
    lister = target.provider
    if not isinstance(lister, ModelLister):
        return None
    kind = target.provider.token(target)
    token = fetch_token(kind, target) if kind else ""
    ends_at = time.monotonic() + MAX_WAIT_S
    timeout = httpx.Timeout(MAX_WAIT_S / 2, connect=connect_timeout_s)
    names: set[str] = set()
    page = ModelPage(())
    for _ in range(MAX_PAGES):
        request = lister.models_request(target, AttemptContext("models", time.time(), token), page.next_page)
        if request is None:
            return None
        if time.monotonic() > ends_at:
            raise _too_slow()
        previous = page.next_page
        page = lister.models(_get(request, target, timeout, proxies, ends_at))
        names.update(page.names)
        if not page.next_page or page.next_page == previous:
            return sorted(names)
    raise UpstreamFault(f"The upstream's list of models has more than {MAX_PAGES} pages.")


def _get(request: ListRequest, target: Target, timeout: httpx.Timeout, proxies: ProxyRules, ends_at: float) -> bytes:
    try:
        proxy = proxies.find_url(request.url)
        if proxy is None:
            host = urlsplit(request.url).hostname or ""
            for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
                check_resolved(host, str(address[0]))
        with (
            httpx.Client(
                timeout=timeout, verify=_load_trust(), trust_env=False, follow_redirects=False, proxy=proxy
            ) as client,
            client.stream("GET", request.url, headers=dict(request.headers)) as response,
        ):
            body = _read(response, ends_at)
            status, headers = response.status_code, {**response.headers}
    except httpx.TimeoutException:
        raise _too_slow() from None
    except httpx.ProxyError:
        raise _proxy_refused() from None
    except (httpx.ConnectError, httpx.UnsupportedProtocol, socket.gaierror, EgressDenied):
        raise ConnectFault("The upstream could not be reached.") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        raise UpstreamFault("The upstream could not be asked for its models.", finish="upstream_broken") from None
    if status == 200:
        return body
    if status == REFUSED_LOGIN and proxy is not None:
        raise _proxy_refused()
    fault = target.provider.failure(target, status, headers, body)
    raise UpstreamFault(f"The upstream answered {status}: {fault.message}", code=fault.code or "upstream_error")


def _read(response: httpx.Response, ends_at: float) -> bytes:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamFault("The upstream compressed its answer in a way that was not asked for.")
    parts: list[bytes] = []
    size = 0
    for piece in response.iter_raw(PIECE_BYTES):
        parts.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            raise UpstreamFault("The upstream's list of models is too large.")
        if time.monotonic() > ends_at:
            raise _too_slow()
    return b"".join(parts)


def _proxy_refused() -> ConnectFault:
    return ConnectFault("The proxy did not connect to the upstream.", code="upstream_proxy")


def _too_slow() -> UpstreamFault:
    return UpstreamFault("The upstream took too long to list its models.", code="upstream_timeout", finish="timeout")


@lru_cache(maxsize=1)
def _load_trust() -> ssl.SSLContext:
    """The system's certificates, which the data path trusts as well."""
    return ssl.create_default_context()
