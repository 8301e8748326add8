"""Stored responses as rows of a database: written in one unit with other rows, and read without the ORM."""

from datetime import UTC, datetime
from operator import itemgetter
from typing import NamedTuple

import orjson

from gateway.pipeline.responses.limits import history_too_large
from gateway.protocol.dialects.responses.stored import MAX_CHAIN, Chain, Owner, StoredResponse
from gateway.state import sql
from gateway.state.instants import instant
from gateway.state.packing import TooManyBytes, pack_response, unpack_all, unpack_response
from gateway.state.reader import Found, Query, Reader
from gateway.state.statement import Row, Statement

COLUMNS = {
    "id": "text",
    "organization_id": "text",
    "owner": "text",
    "parent_id": "text",
    "conversation_id": "text",
    "depth": "integer",
    "model_group": "text",
    "deployment_id": "text",
    "provider": "text",
    "status": "text",
    "is_background": "boolean",
    "is_streamed": "boolean",
    "created_at": "timestamptz",
    "completed_at": "timestamptz",
    "expires_at": "timestamptz",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "metadata": "jsonb",
    "spend_id": "text",
    "body": "bytea",
    "head": "bytea",
}
STORE = Statement(
    name="store response",
    types=tuple(COLUMNS.values()),
    sqlite=sql.sqlite_insert("gateway_storedresponse", COLUMNS),
    postgres=sql.postgres_insert("gateway_storedresponse", COLUMNS),
    is_durable=True,
    rank=2,
    is_set_aside=False,
)


class ReadRow(NamedTuple):
    """The columns that make a StoredResponse. An instant is as the database gives it."""

    id: str
    organization_id: str
    owner: str
    parent_id: str
    conversation_id: str
    depth: int
    model_group: str
    deployment_id: str
    provider: str
    is_background: bool
    is_streamed: bool
    created_at: datetime | str
    completed_at: datetime | str | None
    expires_at: datetime | str
    spend_id: str
    body: bytes
    head: bytes
    status: str


READ = ReadRow._fields


class ChainRow(NamedTuple):
    """One response of a chain. The columns behind `body` are empty except for the last response, which has back 0."""

    back: int
    size: int  # bytes of the bodies from the last response to this one
    parent_id: str
    body: bytes | None
    conversation_id: str
    deployment_id: str
    depth: int
    status: str


#: The response and all its ancestors, in no order. Only the response itself must not have expired: an ancestor lives as
#: long as the responses that build upon it. When the chain has more bytes than the limit, the oldest row found has
#: passed it and no row has a body; `length` reads no body.
CHAIN = sql.query(
    "WITH RECURSIVE chain AS MATERIALIZED ("
    "SELECT id, parent_id, organization_id, owner, 0 AS back, length(body) AS size FROM gateway_storedresponse "
    "WHERE id = {mark} AND organization_id = {mark} AND owner = {mark} AND expires_at > {now} "
    "UNION ALL SELECT r.id, r.parent_id, r.organization_id, r.owner, chain.back + 1, chain.size + length(r.body) "
    "FROM gateway_storedresponse r JOIN chain "
    "ON r.id = chain.parent_id AND r.organization_id = chain.organization_id AND r.owner = chain.owner "
    "WHERE chain.back < {most} AND chain.size <= {mark}) "
    "SELECT chain.back, chain.size, chain.parent_id, "
    "CASE WHEN (SELECT max(size) FROM chain) <= {mark} THEN r.body END, {last} "
    "FROM chain JOIN gateway_storedresponse r ON r.id = chain.id",
    most=MAX_CHAIN,
    # of the chain's last response, as Chain has them
    last=", ".join(
        f"CASE WHEN chain.back = 0 THEN r.{name} END"
        for name in ("conversation_id", "deployment_id", "depth", "status")
    ),
)
ONE = sql.query(
    "SELECT {columns} FROM gateway_storedresponse "
    "WHERE id = {mark} AND organization_id = {mark} AND owner = {mark} AND expires_at > {now}",
    columns=sql.names(READ),
)
_BACK, _BODY = (itemgetter(ChainRow._fields.index(name)) for name in ("back", "body"))


class ResponseRows:
    """Reads of the data path. Each raises DatabaseAway."""

    def __init__(self, reader: Reader, max_history_bytes: int) -> None:
        self._reader = reader
        self._max_history_bytes = max_history_bytes

    async def find(self, owner: Owner, response_id: str) -> StoredResponse | None:
        rows = await self._fetch(ONE, owner, response_id)
        return stored_of(rows[0]) if rows else None

    async def chain(self, owner: Owner, response_id: str) -> Chain | None:
        """None if the response or one of its ancestors is missing. Raises BadRequest if they are too large."""
        limit = self._max_history_bytes
        rows = await self._fetch(CHAIN, owner, response_id, limit, limit)
        if not rows:
            return None
        rows.sort(key=_BACK, reverse=True)  # sorting in SQL would copy all bodies, in one step
        oldest, last = ChainRow._make(rows[0]), ChainRow._make(rows[-1])
        try:
            if oldest.size > limit:
                raise TooManyBytes
            if oldest.parent_id:
                return None
            bodies = await unpack_all(map(_BODY, rows), limit)
        except TooManyBytes:
            raise history_too_large(limit, param="previous_response_id") from None
        items = tuple([item for body in bodies for part in (body["input"], body["output"]) for item in part])
        return Chain(last.conversation_id, last.deployment_id, last.depth, last.status, items)

    async def _fetch(self, query: Query, owner: Owner, response_id: str, *more: object) -> list[Found]:
        return await self._reader.fetch(query, (response_id, owner.organization_id, owner.scope, *more))


def row_of(stored: StoredResponse) -> Row:
    usage = stored.response.get("usage") or {}
    return (
        stored.id,
        stored.owner.organization_id,
        stored.owner.scope,
        stored.parent_id,
        stored.conversation_id,
        stored.depth,
        stored.model_group,
        stored.deployment_id,
        stored.provider,
        stored.status,
        stored.is_background,
        stored.is_streamed,
        instant(stored.created_s),
        instant(stored.completed_s),
        instant(stored.expires_s),
        usage.get("input_tokens") or 0,
        usage.get("output_tokens") or 0,
        orjson.dumps(stored.response.get("metadata") or {}).decode(),
        stored.spend_id,
        *pack_response(stored.input, stored.response),
    )


def stored_of(row: Found) -> StoredResponse:
    columns = ReadRow._make(row)
    input_items, response = unpack_response(columns.body, columns.head)
    response["status"] = columns.status  # the object of a response that has not ended is as it was queued
    return StoredResponse(
        id=columns.id,
        owner=Owner(columns.organization_id, columns.owner),
        parent_id=columns.parent_id,
        conversation_id=columns.conversation_id,
        depth=columns.depth,
        model_group=columns.model_group,
        deployment_id=columns.deployment_id,
        provider=columns.provider,
        is_background=bool(columns.is_background),
        is_streamed=bool(columns.is_streamed),
        created_s=_seconds(columns.created_at),
        completed_s=None if columns.completed_at is None else _seconds(columns.completed_at),
        expires_s=_seconds(columns.expires_at),
        spend_id=columns.spend_id,
        input=tuple(input_items),
        response=response,
    )


def _seconds(value: datetime | str) -> float:
    """An instant as the database gives it: on SQLite a text, in UTC but without a time zone."""
    at = datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value
    return at.timestamp()
