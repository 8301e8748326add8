"""/v1/conversations: conversations and their items.

Source: https://platform.openai.com/docs/api-reference/conversations. As at OpenAI there is no list of conversations.
Conversations do not expire.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import orjson

from gateway.edge.asgi_types import Receive
from gateway.edge.consumer import GatewayConsumer
from gateway.edge.endpoint import Endpoint
from gateway.edge.query import Query, list_object
from gateway.pipeline.large_bodies import read_sized
from gateway.pipeline.responses.conversations import Conversations, conversation_not_found
from gateway.pipeline.responses.create import new_id
from gateway.pipeline.responses.turn import owner_of
from gateway.protocol.dialects.responses.client_request import read_metadata
from gateway.protocol.dialects.responses.items import (
    ID_PATTERN,
    INPUT_IMAGE_URLS,
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
#: Rendered in every answer: a client that keeps its session here reads the items to send them back.
ALWAYS_INCLUDED = frozenset({INPUT_IMAGE_URLS})
Result = TypeVar("Result")


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
                await self._create(owner, receive)
            case ("GET", _) if conversation_id:
                conversation = await self._conversations.find(owner, conversation_id)
                await self._send(conversation_object(require(conversation, conversation_id)))
            case ("POST", _):
                await self._update(owner, conversation_id, receive)
            case ("DELETE", _) if conversation_id:
                await self._delete(owner, conversation_id)
            case ("GET", _, "items"):
                await self._list(owner, conversation_id)
            case ("POST", _, "items"):
                await self._add(owner, conversation_id, receive)
            case ("GET", _, "items", item_id):
                await self._retrieve_item(owner, conversation_id, item_id)
            case ("DELETE", _, "items", item_id):
                await self._delete_item(owner, conversation_id, item_id)
            case (_, _) | (_, _, "items") | (_, _, "items", _):
                raise MethodNotAllowed(f"{self.scope['method']} is not allowed here.")
            case _:
                raise NotFound(f"Unknown path: {path[:255]}")

    # Conversations

    async def _create(self, owner: Owner, receive: Receive) -> None:
        items, metadata = await self._read(receive, read_conversation)
        conversation = StoredConversation(
            id=new_id("conv_"),
            owner=owner,
            created_s=self.runtime.services.now(),
            metadata=metadata,
        )
        await self._conversations.create(conversation, items)
        await self._send(conversation_object(conversation))

    async def _update(self, owner: Owner, conversation_id: str, receive: Receive) -> None:
        metadata = await self._read(receive, read_new_metadata)
        conversation = await self._conversations.update(owner, conversation_id, metadata)
        await self._send(conversation_object(require(conversation, conversation_id)))

    async def _delete(self, owner: Owner, conversation_id: str) -> None:
        if not await self._conversations.delete(owner, conversation_id):
            raise conversation_not_found(conversation_id)
        await self._send({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    # Items of a conversation

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
        page = require(page, conversation_id)
        await self._send_items(page.data, include, has_more=page.has_more)

    async def _add(self, owner: Owner, conversation_id: str, receive: Receive) -> None:
        items_to_add = await self._read(receive, read_new_items)
        include = Query.read(self.scope).include
        items = await self._conversations.add(owner, conversation_id, items_to_add)
        await self._send_items(require(items, conversation_id), include, has_more=False)

    async def _retrieve_item(self, owner: Owner, conversation_id: str, item_id: str) -> None:
        include = Query.read(self.scope).include
        check_item_id(item_id)
        item = await self._conversations.item(owner, conversation_id, item_id)
        if item is None:
            raise item_not_found(item_id)
        await self._send(render_item(item, include | ALWAYS_INCLUDED))

    async def _delete_item(self, owner: Owner, conversation_id: str, item_id: str) -> None:
        check_item_id(item_id)
        conversation = await self._conversations.remove(owner, conversation_id, item_id)
        if conversation is None:
            raise item_not_found(item_id)
        await self._send(conversation_object(conversation))

    @property
    def _conversations(self) -> Conversations:
        return self.runtime.response_services.conversations

    async def _read(self, receive: Receive, read: Callable[[JsonObject], Result]) -> Result:
        """The result of `read` for the request's body."""
        raw = await self.read_body(receive) or b"{}"
        return await read_sized(len(raw), lambda: read(parse_object(raw)))

    async def _send_items(self, items: Sequence[Item], include: frozenset[str], *, has_more: bool) -> None:
        await self._send(
            list_object([render_item(item, include | ALWAYS_INCLUDED) for item in items], has_more=has_more)
        )

    async def _send(self, value: object) -> None:
        await self.reply.send_body(200, [], orjson.dumps(value))


def require(result: Result | None, conversation_id: str) -> Result:
    """`result`, which is None where the owner has no such conversation. Raises NotFound."""
    if result is None:
        raise conversation_not_found(conversation_id)
    return result


def conversation_object(conversation: StoredConversation) -> JsonObject:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_s),
        "metadata": conversation.metadata,
    }


def read_conversation(body: JsonObject) -> tuple[tuple[Item, ...], dict[str, str]]:
    """(items, metadata) of a new conversation. Raises BadRequest."""
    return read_items(body), read_metadata(body.get("metadata"))


def read_new_metadata(body: JsonObject) -> dict[str, str]:
    """Raises BadRequest."""
    if "metadata" not in body:
        raise missing_parameter("metadata")
    return read_metadata(body["metadata"])


def read_new_items(body: JsonObject) -> tuple[Item, ...]:
    """Raises BadRequest."""
    if body.get("items") is None:
        raise missing_parameter("items")
    return read_items(body)


def read_items(body: JsonObject) -> tuple[Item, ...]:
    """The items to add, with their ids. Raises BadRequest."""
    value = body.get("items")
    if value is None:
        return ()
    if type(value) is not list:
        raise invalid_value("items", "it must be an array of items")
    if len(value) > MAX_ADDED:
        raise invalid_value("items", f"it holds {len(value)} items, and {MAX_ADDED} are the most at a time")
    items = read_input(value, new_id, param="items")
    for index, item in enumerate(items):
        if item["type"] == "item_reference":
            raise invalid_value(f"items[{index}].type", "a reference is no item that can be kept: send the item itself")
    return items


def check_item_id(item_id: str) -> None:
    """Raises NotFound for an id that no item can have."""
    if not ID_PATTERN.fullmatch(item_id):
        raise item_not_found(item_id)


def item_not_found(item_id: str) -> NotFound:
    """The same fault where the conversation is unknown or belongs to another owner."""
    return NotFound(f"Item with id '{item_id[:128]}' not found.", code="item_not_found")


ENDPOINT = Endpoint(name="conversations", paths=PATHS, consumer=ConversationsConsumer, prefix=True)
