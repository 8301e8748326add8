"""WebhookSender: posts to addresses that administrators wrote, through the egress guard."""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.protocol.errors import UpstreamFault
from gateway.upstream.addresses import EgressDenied
from gateway.upstream.client import UpstreamAnswer
from gateway.upstream.egress import GuardedResolver
from gateway.upstream.media import ascii_url
from gateway.upstream.names import NameCache
from gateway.upstream.pool import ConnectionPool, NotConnected

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
NAMES_AT_ONCE = 3


class WebhookFailed(Exception):
    """No answer; the text says why, and has nothing of the address."""


@dataclass(frozen=True, slots=True)
class WebhookAnswer:
    status: int
    body: bytes


class WebhookSender:
    """Redirects are not followed. Closes: the owner, with `close()`."""

    def __init__(self, allowed: Sequence[str] = (), *, timeout_s: float = TIMEOUT_S) -> None:
        """`allowed`: private networks that may be posted to."""
        self._resolver = GuardedResolver([ipaddress.ip_network(text, strict=False) for text in allowed])
        self._timeout_s = timeout_s
        names = NameCache(self._resolver.resolve, resolved_for_s=0, at_once=NAMES_AT_ONCE)
        self._pool = ConnectionPool(connect_timeout_s=timeout_s, names=names, keep_alive_s=0)

    async def close(self) -> None:
        await self._pool.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> WebhookAnswer:
        """Raises WebhookFailed."""
        try:
            url = ascii_url(url)
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or parts.username or parts.password:
                raise WebhookFailed("the address must be plain http or https")
            self._resolver.check_literal(parts.hostname, parts.port or 0)
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(url, headers, body)
        except EgressDenied:
            raise WebhookFailed("the address is not public") from None
        except TimeoutError:
            raise WebhookFailed(f"no answer within {self._timeout_s:g} s") from None
        except NotConnected as error:
            is_denied = isinstance(error.__cause__, EgressDenied)
            raise WebhookFailed("the address is not public" if is_denied else "no connection") from None
        except UpstreamFault:
            raise WebhookFailed("the answer broke off or was too large") from None
        except (OSError, ValueError):
            raise WebhookFailed("the request could not be sent") from None

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes) -> WebhookAnswer:
        response = await self._pool.request("POST", url, {"user-agent": "tollgate", **headers}, body)
        answer = UpstreamAnswer(response, max_bytes=MAX_ANSWER_BYTES)
        try:
            return WebhookAnswer(answer.status, await answer.read())
        finally:
            answer.close()
