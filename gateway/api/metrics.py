"""GET /metrics: the numbers of all processes of this home. `?litellm_names=true` adds LiteLLM's names of them."""

from functools import partial

from django.conf import settings
from django.db import Error as DatabaseError

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.edge.query import Query
from gateway.metrics.access import may_read_metrics
from gateway.metrics.exposition import choose_format, make_page
from gateway.protocol.errors import BadRequest, Forbidden
from tenants.database import database_away

BOOLEANS = {"": False, "true": True, "1": True, "false": False, "0": False}


class MetricsConsumer(GatewayConsumer):
    async def answer(self, receive: Receive) -> None:
        if settings.TOLLGATE_METRICS_AUTH:
            await self._check_caller()
        text = Query.read(self.scope).text("litellm_names").lower()
        if text not in BOOLEANS:
            raise BadRequest("Invalid value for 'litellm_names': it must be true or false.", param="litellm_names")
        form = choose_format(self.headers.get(b"accept", b"").decode("latin-1"))
        make = partial(make_page, form=form, with_litellm_names=BOOLEANS[text])
        page = await self.runtime.metrics.render(f"{form} {BOOLEANS[text]}", make)
        await self.reply.send_typed(200, [(b"content-type", form.encode()), (b"cache-control", b"no-store")], page)

    async def _check_caller(self) -> None:
        """Raises Unauthorized, Forbidden, or GatewayFault while a key's role cannot be read. The master key needs no
        database: it works in an outage, if this process knows it."""
        principal = await self.identify()
        if principal.is_master:
            return
        try:
            may_read = await self.runtime.threads.run_briefly(may_read_metrics, principal.key_id)
        except DatabaseError:
            raise database_away("read the key's role") from None
        if not may_read:
            raise Forbidden(
                "Metrics need the master key, or a key of a user whose role reads the whole platform.",
                code="insufficient_permissions",
            )


ENDPOINT = Endpoint(name="metrics", paths=("/metrics",), consumer=MetricsConsumer)
