"""/v1/conversations: conversations, and the items in them.

Source: https://platform.openai.com/docs/api-reference/conversations. There is no list of conversations, as there is
none at OpenAI, and they do not expire.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.edge.query import Query, list_object
from gateway.pipeline.responses.conversations import Conversations, conversation_not_found
from gateway.pipeline.responses.create import new_id
from gateway.pipeline.responses.turn import owner_of
from gateway.protocol.dialects.responses.client_request import read_metadata
from gateway.protocol.dialects.responses.items import (
    ID_PATTERN,
    invalid_value,
    missing_parameter,
    read_input,
    render_item,
)
from gateway.protocol.dialects.responses.stored import Item, Owner, StoredConversation
from gateway.protocol.errors import MethodNotAllowed, NotFound
from gateway.protocol.json.body import parse_object
from gateway.protocol.json.types import JsonObject

PATHS = ("/v1/conversations", "/conversations")
MAX_ADDED = 20  # items at a time
#: Shown without being asked for: a client that keeps its session here reads the items to send them back.
SENT_BACK = frozenset({"message.input_image.image_url"})


class ConversationsConsumer(GatewayConsumer):
    methods = ("GET", "HEAD", "POST", "DELETE")

    async def answer(self, receive: Receive) -> None:
        owner = owner_of(await self.identify())
        path: str = self.scope["path"].rstrip("/")
        conversation_id, *rest = path.partition("/conversations")[2].lstrip("/").split("/")
        method: str = self.scope["method"].replace("HEAD", "GET")
        if conversation_id and not ID_PATTERN.fullmatch(conversation_id):
            raise conversation_not_found(conversation_id)
        match (method, conversation_id, *rest):
            case ("POST", ""):
                await self._create(owner, await self._body(receive))
            case ("GET", _) if conversation_id:
                await self._send(conversation_object(await self._find(owner, conversation_id)))
            case ("POST", _):
                await self._update(owner, conversation_id, await self._body(receive))
            case ("DELETE", _) if conversation_id:
                await self._delete(owner, conversation_id)
            case ("GET", _, "items"):
                await self._list(owner, conversation_id)
            case ("POST", _, "items"):
                await self._add(owner, conversation_id, await self._body(receive))
            case ("GET", _, "items", item_id):
                await self._retrieve_item(owner, conversation_id, item_id)
            case ("DELETE", _, "items", item_id):
                await self._delete_item(owner, conversation_id, item_id)
            case (_, _) | (_, _, "items") | (_, _, "items", _):
                raise MethodNotAllowed(f"{self.scope['method']} is not allowed here.")
            case _:
                raise NotFound(f"Unknown path: {path[:255]}")

    # Conversations

    async def _create(self, owner: Owner, body: JsonObject) -> None:
        items = read_items(body)
        conversation = StoredConversation(
            id=new_id("conv_"),
            owner=owner,
            created_s=self.runtime.services.now(),
            metadata=read_metadata(body.get("metadata")),
        )
        await self._conversations.create(conversation, items)
        await self._send(conversation_object(conversation))

    async def _update(self, owner: Owner, conversation_id: str, body: JsonObject) -> None:
        if "metadata" not in body:
            raise missing_parameter("metadata")
        metadata = read_metadata(body["metadata"])
        conversation = await self._conversations.update(owner, conversation_id, metadata)
        if conversation is None:
            raise conversation_not_found(conversation_id)
        await self._send(conversation_object(conversation))

    async def _delete(self, owner: Owner, conversation_id: str) -> None:
        if not await self._conversations.delete(owner, conversation_id):
            raise conversation_not_found(conversation_id)
        await self._send({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    async def _find(self, owner: Owner, conversation_id: str) -> StoredConversation:
        conversation = await self._conversations.find(owner, conversation_id)
        if conversation is None:
            raise conversation_not_found(conversation_id)
        return conversation

    # Their items

    async def _list(self, owner: Owner, conversation_id: str) -> None:
        query = Query.read(self.scope)
        include = query.include
        page = await self._conversations.page(
            owner,
            conversation_id,
            limit=query.limit,
            is_descending=query.is_descending,
            after=query.text("after"),
        )
        if page is None:
            raise conversation_not_found(conversation_id)
        await self._send_items(page.data, include, has_more=page.has_more)

    async def _add(self, owner: Owner, conversation_id: str, body: JsonObject) -> None:
        include = Query.read(self.scope).include
        if body.get("items") is None:
            raise missing_parameter("items")
        items = await self._conversations.add(owner, conversation_id, read_items(body))
        if items is None:
            raise conversation_not_found(conversation_id)
        await self._send_items(items, include, has_more=False)

    async def _retrieve_item(self, owner: Owner, conversation_id: str, item_id: str) -> None:
        include = Query.read(self.scope).include
        item = (
            await self._conversations.item(owner, conversation_id, item_id) if ID_PATTERN.fullmatch(item_id) else None
        )
        if item is None:
            raise item_not_found(item_id)
        await self._send(render_item(item, include | SENT_BACK))

    async def _delete_item(self, owner: Owner, conversation_id: str, item_id: str) -> None:
        conversation = (
            await self._conversations.remove(owner, conversation_id, item_id) if ID_PATTERN.fullmatch(item_id) else None
        )
        if conversation is None:
            raise item_not_found(item_id)
        await self._send(conversation_object(conversation))

    @property
    def _conversations(self) -> Conversations:
        return self.runtime.sessions.conversations

    async def _body(self, receive: Receive) -> JsonObject:
        return parse_object(await self.read_body(receive) or b"{}")

    async def _send_items(self, items: Sequence[Item], include: frozenset[str], *, has_more: bool) -> None:
        await self._send(list_object([render_item(item, include | SENT_BACK) for item in items], has_more=has_more))

    async def _send(self, value: object) -> None:
        await self.reply.send_body(200, [], orjson.dumps(value))


def conversation_object(conversation: StoredConversation) -> JsonObject:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_s),
        "metadata": conversation.metadata,
    }


def read_items(body: JsonObject) -> tuple[Item, ...]:
    """The items to add, ids assigned. Raises BadRequest."""
    given: Any = body.get("items")
    if given is None:
        return ()
    if type(given) is not list:
        raise invalid_value("items", "it must be an array of items")
    if len(given) > MAX_ADDED:
        raise invalid_value("items", f"it holds {len(given)} items, and {MAX_ADDED} are the most at a time")
    items = read_input(given, new_id, param="items")
    for index, item in enumerate(items):
        if item["type"] == "item_reference":
            raise invalid_value(f"items[{index}].type", "a reference is no item that can be kept: send the item itself")
    return items


def item_not_found(item_id: str) -> NotFound:
    """In the same words where the conversation is unknown or somebody else's."""
    return NotFound(f"Item with id '{item_id[:128]}' not found.", code="item_not_found")


ENDPOINT = Endpoint(name="conversations", paths=PATHS, consumer=ConversationsConsumer, prefix=True)
