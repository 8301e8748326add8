"""Sends the requests of alerts from a worker's thread, some at once."""

import asyncio
from collections.abc import Sequence

from django.conf import settings

from billing.alerts.delivery import Reply
from billing.alerts.messages import Outgoing
from gateway.upstream.gather_limited import gather_limited
from gateway.upstream.webhooks import WebhookFailed, WebhookSender

AT_ONCE = 10


def send_all(requests: Sequence[Outgoing]) -> Sequence[Reply]:
    """The replies in the order of the requests."""
    return asyncio.run(_send_all(requests))


async def _send_all(requests: Sequence[Outgoing]) -> Sequence[Reply]:
    sender = WebhookSender(settings.TOLLGATE_WEBHOOK_NETWORKS)

    async def send(request: Outgoing) -> Reply:
        try:
            answer = await sender.post(request.url, request.headers, request.body)
        except WebhookFailed as problem:
            return Reply(error=str(problem))
        return Reply(answer.status, answer.body)

    try:
        return await gather_limited(send, requests, limit=AT_ONCE)
    finally:
        await sender.close()
