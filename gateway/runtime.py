"""The composition root: the one place that names concrete adapters."""

import gc
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache

from celery import current_app
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from uuid_utils import uuid7

from billing.ledger import STATEMENTS, SpendLedger
from billing.tasks import price_pending
from gateway.models.encryption import OrganizationSeal
from gateway.pipeline.exchange import Services
from gateway.pipeline.responses.create import new_id as new_item_id
from gateway.pipeline.responses.ports import ResponseServices
from gateway.routing.unsupported_parameters import UnsupportedParameters
from gateway.state.group_commit import Backend, GroupCommit
from gateway.state.postgres import PostgresBackend
from gateway.state.postgres_reader import PostgresReader
from gateway.state.reader import Reader
from gateway.state.signatures import SignatureMemory
from gateway.state.spool import Spool
from gateway.state.sqlite import SQLiteBackend
from gateway.state.sqlite_reader import SQLiteReader
from gateway.stores import conversations as conversation_store
from gateway.stores import responses as response_store
from gateway.stores import run_events as event_store
from gateway.stores import runs as background_store
from gateway.stores.catalog import Snapshot
from gateway.stores.conversations import ConversationStore
from gateway.stores.idempotency import IdempotencyStore
from gateway.stores.orm import OrmThreads
from gateway.stores.responses import ResponseStore
from gateway.stores.revision_watch import RevisionWatch
from gateway.stores.runs import BackgroundStore
from gateway.stores.storage_quota import StorageQuota
from gateway.stores.task_publisher import TaskPublisher
from gateway.upstream.client import UpstreamClient
from gateway.upstream.media import MediaFetcher
from gateway.upstream.tokens import TokenSource
from tenants.directory import KeyDirectory

RUN_BACKGROUND = "gateway.tasks.run_background"  # by its name: the task stands above this module
#: Requests free themselves without the collector (tests/unit/edge/test_freed_requests.py). Should one not, the first
#: number bounds how many: a failed request has some 300 objects. Python's 700 costs a fifth of the CPU, this 2 %.
GC_THRESHOLDS = (5_000, 10, 20)
STORES = (response_store, conversation_store, event_store, background_store)


class Drain:
    """The end of a process, from the signal on: health checks fail, and what is under way finishes."""

    def __init__(self) -> None:
        self.has_begun = False

    def begin(self) -> None:
        self.has_begun = True


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a process answers calls with, open and complete; see `start_runtime`."""

    services: Services
    response_services: ResponseServices
    directory: KeyDirectory
    runs: BackgroundStore
    claims: IdempotencyStore
    commits: GroupCommit
    watch: RevisionWatch
    background: TaskPublisher
    drain: Drain
    draw: Callable[[], float] = random.random

    @property
    def snapshot(self) -> Snapshot:
        return self.watch.snapshot

    @property
    def unready_reason(self) -> str:
        """Why this process cannot serve calls, by the last reads and the last write, at most a heartbeat ago; empty
        where it can."""
        if not self.watch.is_database_up:
            return "The database does not answer."
        return "" if self.commits.is_writable else "The database takes no writes."

    @property
    def is_draining(self) -> bool:
        return self.drain.has_begun

    def wake_background(self) -> None:
        """A response is queued."""
        self.background.wake()


@asynccontextmanager
async def start_runtime(drain: Drain) -> AsyncIterator[Runtime]:
    """The runtime of this process, whether or not the database answers. Closes: the end of the block, which comes after
    the last request is answered; each part closes after the parts that need it."""
    async with AsyncExitStack() as stack:
        writer_id = new_id()
        threads = OrmThreads()
        stack.callback(threads.close)
        pricing = TaskPublisher("pricing", lambda: price_pending.apply_async(expires=10, retry=False))
        stack.callback(pricing.close)
        background = TaskPublisher("background", lambda: current_app.send_task(RUN_BACKGROUND, expires=10, retry=False))
        stack.callback(background.close)
        media = MediaFetcher(settings.TOLLGATE_MEDIA_NETWORKS)
        stack.push_async_callback(media.close)
        client = UpstreamClient(
            connect_timeout_s=settings.TOLLGATE_CONNECT_TIMEOUT_S,
            max_answer_bytes=settings.TOLLGATE_MAX_UPSTREAM_BYTES,
        )
        stack.push_async_callback(client.close)
        backend, reader = _database()
        await reader.open()
        stack.push_async_callback(reader.close)
        statements = (*STATEMENTS, *(statement for store in STORES for statement in store.STATEMENTS))
        quota = StorageQuota(reader, settings.TOLLGATE_MAX_ORGANIZATION_BYTES)
        commits = GroupCommit(backend, Spool(settings.TOLLGATE_HOME / "spool", writer_id, statements))
        await commits.open()
        stack.push_async_callback(commits.close)
        directory = KeyDirectory(in_thread=threads.run_briefly, outage_grace_s=settings.TOLLGATE_DB_OUTAGE_GRACE_S)
        watch = RevisionWatch(threads, reader, directory)
        ledger = SpendLedger(
            commits,
            writer_id=writer_id,
            find_price=watch.find_price,
            on_metered=pricing.wake,
            max_call_tokens=settings.TOLLGATE_MAX_CALL_TOKENS,
        )
        await ledger.start()
        stack.push_async_callback(ledger.stop)
        await watch.start()
        stack.push_async_callback(watch.stop)
        gc.collect()
        gc.freeze()  # all that exists now lives as long as the process
        gc.set_threshold(*GC_THRESHOLDS)
        yield Runtime(
            services=Services(
                ledger=ledger,
                unsupported_parameters=UnsupportedParameters(),
                memory=SignatureMemory(),
                tokens=TokenSource(),
                media=media,
                client=client,
                now=time.time,
                new_id=new_id,
                timeout_s=settings.TOLLGATE_TIMEOUT_S,
                idle_timeout_s=settings.TOLLGATE_STREAM_IDLE_TIMEOUT_S,
                keepalive_s=settings.TOLLGATE_KEEPALIVE_S,
                stalled_client_s=settings.TOLLGATE_STALLED_CLIENT_S,
                stream_timeout_s=settings.TOLLGATE_STREAM_TIMEOUT_S,
            ),
            response_services=ResponseServices(
                responses=ResponseStore(commits, reader, threads.run, on_stored=quota.note),
                commit=commits.commit,
                conversations=ConversationStore(commits, reader, threads.run, new_item_id),
                seal=lru_cache(maxsize=1024)(OrganizationSeal),
                retention_days=settings.TOLLGATE_RETENTION_DAYS,
                check_room=quota.check,
                max_stored_bytes=settings.TOLLGATE_MAX_STORED_BYTES,
            ),
            directory=directory,
            runs=BackgroundStore(commits, reader, threads.run, writer_id),
            claims=IdempotencyStore(threads.run, writer_id),
            commits=commits,
            watch=watch,
            background=background,
            drain=drain,
        )


def new_id() -> str:
    return str(uuid7())


def _database() -> tuple[Backend, Reader]:
    """The writer and the reader of the data path."""
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        return SQLiteBackend(database["NAME"]), SQLiteReader(database["NAME"])
    conninfo = make_conninfo("", **(settings.POSTGRESQL | conninfo_to_dict(settings.DATABASE_URL)))
    return PostgresBackend(conninfo), PostgresReader(conninfo)
