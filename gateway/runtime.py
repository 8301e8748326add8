"""The composition root: the one place that names concrete adapters. Built once a process, started and drained."""

import asyncio
import gc
import logging
import random
import threading
import time
from collections.abc import Callable
from functools import lru_cache

from celery import current_app
from django.conf import settings
from django.db import Error as DatabaseError
from kombu.exceptions import OperationalError as BrokerError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from uuid_utils import uuid7

from billing.ledger import STATEMENTS, SpendLedger
from billing.pricing import PriceLines
from billing.tasks import price_pending
from gateway.models.encryption import OrganizationSeal
from gateway.pipeline.exchange import Services
from gateway.pipeline.responses.create import Sessions
from gateway.pipeline.responses.create import new_id as new_item_id
from gateway.routing.unsupported_parameters import UnsupportedParameters
from gateway.state.group_commit import Backend, GroupCommit
from gateway.state.postgres import PostgresBackend
from gateway.state.postgres_reader import PostgresReader
from gateway.state.reader import Query, Reader
from gateway.state.signatures import SignatureMemory
from gateway.state.spool import Spool
from gateway.state.sqlite import SQLiteBackend
from gateway.state.sqlite_reader import SQLiteReader
from gateway.state.statement import DatabaseAway
from gateway.stores import conversations as conversation_store
from gateway.stores import responses as response_store
from gateway.stores import run_events as event_store
from gateway.stores import runs as background_store
from gateway.stores.catalog import Snapshot, load_snapshot
from gateway.stores.conversations import ConversationStore
from gateway.stores.idempotency import IdempotencyStore
from gateway.stores.orm import OrmThreads
from gateway.stores.responses import ResponseStore
from gateway.stores.runs import BackgroundStore
from gateway.upstream.client import UpstreamClient
from gateway.upstream.media import MediaFetcher
from gateway.upstream.tokens import TokenSource
from tenants.directory import KeyDirectory
from tenants.revision import current_revision

logger = logging.getLogger(__name__)

POLL_S = 0.5
LOOK_LIMIT_S = 5.0  # then nobody waits for the look any more
LOOK = Query(*["SELECT value FROM tenants_revision WHERE id = 1"] * 2)
WAKE_AT_MOST_EVERY_S = 1.0
RUN_BACKGROUND = "gateway.tasks.run_background"  # by its name: the task stands above this module


class Runtime:
    """Everything a web process works with. Closes: `stop()`, after the last request is answered."""

    services: Services
    sessions: Sessions

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.is_draining = False
        self._answers_reads = False
        self._looked_at = 0.0  # when it last did (monotonic)
        self.draw = random.random
        self._threads = OrmThreads()
        self._revision = -1
        self.directory = KeyDirectory(
            in_thread=self._threads.run_briefly, outage_grace_s=settings.TOLLGATE_DB_OUTAGE_GRACE_S
        )

    async def start(self) -> None:
        writer_id = new_id()
        stores = (response_store, conversation_store, event_store, background_store)
        statements = (*STATEMENTS, *(statement for store in stores for statement in store.STATEMENTS))
        spool = Spool(settings.TOLLGATE_HOME / "spool", writer_id, statements)
        backend, self._reader = _database()
        self._commits = GroupCommit(backend, spool)
        self._client = UpstreamClient(
            connect_timeout_s=settings.TOLLGATE_CONNECT_TIMEOUT_S,
            max_answer_bytes=settings.TOLLGATE_MAX_UPSTREAM_BYTES,
        )
        self._media = MediaFetcher(settings.TOLLGATE_MEDIA_NETWORKS)
        self._pricing = TaskPublisher("pricing", lambda: price_pending.apply_async(expires=10, retry=False))
        self._background = TaskPublisher(
            "background", lambda: current_app.send_task(RUN_BACKGROUND, expires=10, retry=False)
        )
        self._ledger = SpendLedger(
            self._commits, writer_id=writer_id, find_price=self._find_price, on_metered=self._pricing.wake
        )
        self.services = Services(
            ledger=self._ledger,
            unsupported_parameters=UnsupportedParameters(),
            memory=SignatureMemory(),
            tokens=TokenSource(),
            media=self._media,
            client=self._client,
            now=time.time,
            new_id=new_id,
            timeout_s=settings.TOLLGATE_TIMEOUT_S,
            idle_timeout_s=settings.TOLLGATE_STREAM_IDLE_TIMEOUT_S,
            keepalive_s=settings.TOLLGATE_KEEPALIVE_S,
            stalled_client_s=settings.TOLLGATE_STALLED_CLIENT_S,
        )
        self.sessions = Sessions(
            responses=ResponseStore(self._commits, self._reader, self._threads.run),
            conversations=ConversationStore(self._commits, self._reader, self._threads.run, new_item_id),
            seal=lru_cache(maxsize=1024)(OrganizationSeal),
            retention_days=settings.TOLLGATE_RETENTION_DAYS,
            max_stored_bytes=settings.TOLLGATE_MAX_STORED_BYTES,
        )
        self.runs = BackgroundStore(self._commits, self._reader, self._threads.run, writer_id)
        self.claims = IdempotencyStore(self._threads.run, writer_id)
        await self._commits.open()
        await self._reader.open()
        await self._look()
        await self._ledger.start()
        self._watch = asyncio.create_task(self._poll(), name="revision poll")
        # What exists now lives as long as the process; and a collection every 700 objects costs a fifth of the CPU.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    async def stop(self) -> None:
        self._watch.cancel()
        await self._ledger.stop()
        await self._commits.close()
        await self._reader.close()
        await self._client.close()
        await self._media.close()
        self._pricing.stop()
        self._background.stop()
        self._threads.close()

    def wake_background(self) -> None:
        """A response is queued."""
        self._background.wake()

    @property
    def is_database_up(self) -> bool:
        """As of the last reads, half a second ago or a little more, and of the last write, at most a heartbeat ago."""
        is_recent = time.monotonic() - self._looked_at < LOOK_LIMIT_S
        return is_recent and self._answers_reads and self._commits.is_connected

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
            except Exception:  # without this poll a revoked key would work for ever
                logger.exception("the poll met an unforeseen error")

    async def _look(self) -> None:
        """Learns the revision, and the deployments where it has changed."""
        try:
            revision = await self._threads.run_briefly(current_revision)
            if revision != self._revision:
                self.snapshot = await self._threads.run(load_snapshot)
                self._revision = revision
            self.directory.confirm(revision)
            await self._reader.fetch(LOOK, ())
            self._answers_reads, self._looked_at = True, time.monotonic()
        except (DatabaseError, DatabaseAway) as error:
            if self._answers_reads:
                logger.error("the database is away", extra={"why": type(error).__name__})
            self._answers_reads = False

    def _find_price(self, price_id: str) -> PriceLines | None:
        return self.snapshot.prices.get(price_id)


class TaskPublisher:
    """Tells the worker that there is something to do: coalesced, from a thread, since publishing blocks for 1 to 2 ms.
    A wake-up that fails is made good by the beat."""

    def __init__(self, name: str, send: Callable[[], object]) -> None:
        self._send = send
        self._event = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"waker of {name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        if not self._event.is_set():
            self._event.set()

    def stop(self) -> None:
        self._is_stopping = True
        self._event.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while self._event.wait() and not self._is_stopping:
            self._event.clear()
            try:
                self._send()
            except (BrokerError, OSError) as error:
                logger.warning("the broker is away, the beat will wake", extra={"why": type(error).__name__})
            time.sleep(WAKE_AT_MOST_EVERY_S)


def new_id() -> str:
    return str(uuid7())


def _database() -> tuple[Backend, Reader]:
    """The writer and the reader of the data path."""
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        return SQLiteBackend(database["NAME"]), SQLiteReader(database["NAME"])
    conninfo = make_conninfo("", **(settings.POSTGRESQL | conninfo_to_dict(settings.DATABASE_URL)))
    return PostgresBackend(conninfo), PostgresReader(conninfo)
