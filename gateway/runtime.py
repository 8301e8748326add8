"""The composition root: the one place that names concrete adapters."""

import gc
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from celery import current_app
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from uuid_utils import uuid7

from billing.estimate import CallEstimator
from billing.ledger import STATEMENTS, SpendLedger
from billing.tasks import price_pending
from gateway.explanation.live_routing import LIVE_ROUTING
from gateway.metrics.numbers import Series
from gateway.metrics.process_files import ProcessFiles
from gateway.metrics.recorder import Recorder, is_known
from gateway.metrics.sharing import MetricsSharing
from gateway.models.encryption import OrganizationSeal
from gateway.pipeline.deployment_limits import DeploymentLimits
from gateway.pipeline.memory_trim import MemoryTrim
from gateway.pipeline.ports import Dimension
from gateway.pipeline.probe import PROBER
from gateway.pipeline.response_cache import NO_RESPONSE_CACHE, CacheScope, CacheSettings, ResponseCache
from gateway.pipeline.responses.create import new_id as new_item_id
from gateway.pipeline.responses.ports import ResponseServices
from gateway.pipeline.services import Services
from gateway.protocol.timeouts import Timeouts
from gateway.routing.breaker import Breaker
from gateway.routing.breaker_log import BreakerLog
from gateway.routing.breaker_sharing import BreakerSharing
from gateway.routing.live_states import LIVE_STATES
from gateway.routing.load import DeploymentLoad
from gateway.routing.retry_budget import RetryBudget
from gateway.routing.unsupported_parameters import UnsupportedParameters
from gateway.routing.walk import Routing
from gateway.state.group_commit import Backend, GroupCommit
from gateway.state.memory_answer_store import MemoryAnswerStore
from gateway.state.memory_rate_limits import MemoryRateLimits
from gateway.state.postgres import PostgresBackend
from gateway.state.postgres_reader import PostgresReader
from gateway.state.rate_limits import RateLimits
from gateway.state.reader import Reader
from gateway.state.redis_answer_store import RedisAnswerStore
from gateway.state.redis_breaker_store import RedisBreakerStore
from gateway.state.redis_rate_limits import RedisRateLimits
from gateway.state.shared_rate_limits import SharedRateLimits
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
from gateway.stores.probe_feed import ProbeFeed
from gateway.stores.responses import ResponseStore
from gateway.stores.revision_watch import RevisionWatch
from gateway.stores.run_slots import RunLimits
from gateway.stores.runs import BackgroundStore
from gateway.stores.storage_quota import StorageQuota
from gateway.stores.task_publisher import TaskPublisher
from gateway.upstream.client import UpstreamClient
from gateway.upstream.media import MediaFetcher
from gateway.upstream.proxy import ProxyRules
from gateway.upstream.tokens import TokenSource
from tenants.admission import LimitAdmission
from tenants.budget_leases import BudgetLeases
from tenants.deployment_budgets import LeasedDeploymentBudgets
from tenants.directory import KeyDirectory
from tenants.key_spend import KeySpend
from tenants.key_status import KeyStatusReader
from tenants.key_use import KeyUse
from tenants.live_limits import LIVE_LIMITS
from tenants.rate_limiter import ALL_DIMENSIONS, RateLimiter
from tenants.revision import deployments_of
from tenants.row_security.settings import ALL_ORGANIZATIONS_OPTION
from tenants.scope_rules import ScopeRulesDirectory

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
    key_use: KeyUse
    key_spend: KeySpend
    key_status: KeyStatusReader
    runs: BackgroundStore
    claims: IdempotencyStore
    commits: GroupCommit
    watch: RevisionWatch
    metrics: MetricsSharing
    threads: OrmThreads
    background: TaskPublisher
    drain: Drain

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
async def start_runtime(drain: Drain, *, is_worker: bool = False) -> AsyncIterator[Runtime]:
    """The runtime of this process, whether or not the database answers. Closes: the end of the block, which comes after
    the last request is answered; each part closes after the parts that need it. A worker takes the slots of background
    responses alone: the web process has taken their other rate limits when it queued them."""
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
            proxies=ProxyRules(settings.UPSTREAM_PROXIES, settings.UPSTREAM_NO_PROXY),
        )
        stack.push_async_callback(client.close)
        backend, reader, patient_backend = _database()
        await reader.open()
        stack.push_async_callback(reader.close)
        statements = (*STATEMENTS, *(statement for store in STORES for statement in store.STATEMENTS))
        quota = StorageQuota(reader, settings.TOLLGATE_MAX_ORGANIZATION_BYTES)
        folder = settings.TOLLGATE_HOME / "spool"
        spool = Spool(folder, writer_id, statements)
        patient = None
        if patient_backend is not None:
            patient = GroupCommit(patient_backend, Spool(folder / "large", writer_id, statements))
        commits = GroupCommit(backend, spool, patient=patient)
        await commits.open()
        stack.push_async_callback(commits.close)
        directory = KeyDirectory(in_thread=threads.run_briefly, outage_grace_s=settings.TOLLGATE_DB_OUTAGE_GRACE_S)
        scope_rules = ScopeRulesDirectory(in_thread=threads.run_briefly)
        breaker = Breaker(time.time, random.random)
        recorder = Recorder(time.time)
        routing = Routing(
            breaker,
            DeploymentLoad(time.monotonic),
            RetryBudget(time.monotonic),
            random.random,
            lambda: watch.snapshot.routing,
        )
        watch = RevisionWatch(
            threads,
            reader,
            directory,
            scope_rules.forget,
            lambda changes: routing.forget(deployments_of(changes)),
            on_load=lambda snapshot: _retain(snapshot, breaker, recorder),
        )
        breaker.listen(BreakerLog(watch.describe_deployment, time.time))
        breaker.listen(recorder)
        ledger = SpendLedger(
            commits,
            writer_id=writer_id,
            find_price=watch.find_price,
            on_metered=pricing.wake,
            max_call_tokens=settings.TOLLGATE_MAX_CALL_TOKENS,
        )
        budgets = BudgetLeases(threads.run_briefly, writer_id=writer_id, liveness=ledger)
        redis = await stack.enter_async_context(_redis())
        counters = await stack.enter_async_context(_rate_limits(redis))
        cache = await stack.enter_async_context(_response_cache(redis))
        limiter = RateLimiter(
            counters,
            now=time.time,
            new_id=new_id,
            dimensions=frozenset({Dimension.PARALLEL}) if is_worker else ALL_DIMENSIONS,
            has_draft_headers=settings.TOLLGATE_RATELIMIT_DRAFT_HEADERS,
        )
        default_tokens = settings.TOLLGATE_DEFAULT_OUTPUT_TOKENS
        estimator = CallEstimator(watch.find_price, default_output_tokens=default_tokens)
        admission = LimitAdmission(
            limiter,
            budgets,
            scope_rules,
            estimate=estimator,
            now=time.time,
            budget_status=settings.TOLLGATE_BUDGET_STATUS,
            find_output_limit=estimator.find_output_limit if settings.TOLLGATE_LOWER_MAX_TOKENS else None,
        )
        deployment_limits = DeploymentLimits(counters, new_id=new_id, estimate=estimator.count_tokens)
        deployment_budgets = LeasedDeploymentBudgets(
            budgets,
            lambda deployment_id: watch.snapshot.budgets.get(deployment_id, ()),
            estimate=estimator,
            now=time.time,
            budget_status=settings.TOLLGATE_BUDGET_STATUS,
        )
        await ledger.start()
        stack.push_async_callback(ledger.stop)
        await watch.start()
        stack.push_async_callback(watch.stop)
        if redis is not None:
            await stack.enter_async_context(_share_breaker(breaker, redis, watch, writer_id))
        metrics = MetricsSharing(
            ProcessFiles(
                settings.TOLLGATE_HOME / "metrics", writer_id, lambda series: _is_served(series, watch.snapshot)
            ),
            recorder,
            routing,
            commits,
            find_targets=lambda: watch.snapshot.targets,
            is_database_up=lambda: watch.is_database_up,
            in_thread=threads.run_briefly,
            now=time.time,
        )
        await metrics.start()
        stack.push_async_callback(metrics.stop)
        feed = ProbeFeed(threads, routing, lambda: watch.snapshot)
        await feed.start()
        stack.push_async_callback(feed.stop)
        LIVE_STATES.connect(breaker)
        stack.callback(LIVE_STATES.disconnect)
        key_use = KeyUse(threads.run)
        await key_use.start()
        stack.push_async_callback(key_use.close)
        key_spend = KeySpend(threads.run)
        await key_spend.start()
        stack.push_async_callback(key_spend.close)
        await budgets.start()
        stack.push_async_callback(budgets.close)
        await limiter.start()
        stack.push_async_callback(limiter.close)
        await deployment_limits.start()
        stack.push_async_callback(deployment_limits.close)
        LIVE_ROUTING.connect(routing)
        stack.callback(LIVE_ROUTING.disconnect)
        LIVE_LIMITS.connect(limiter)
        stack.callback(LIVE_LIMITS.disconnect)
        gc.collect()
        gc.freeze()  # all that exists now lives as long as the process
        gc.set_threshold(*GC_THRESHOLDS)
        trim = MemoryTrim()
        trim.start()
        stack.push_async_callback(trim.stop)
        runtime = Runtime(
            services=Services(
                ledger=ledger,
                unsupported_parameters=UnsupportedParameters(),
                memory=SignatureMemory(),
                tokens=TokenSource(),
                media=media,
                client=client,
                now=time.time,
                new_id=new_id,
                timeouts=Timeouts(
                    timeout_s=settings.TOLLGATE_TIMEOUT_S,
                    stream_idle_timeout_s=settings.TOLLGATE_STREAM_IDLE_TIMEOUT_S,
                    max_stream_duration_s=settings.TOLLGATE_STREAM_TIMEOUT_S,
                ),
                keepalive_s=settings.TOLLGATE_KEEPALIVE_S,
                stalled_client_s=settings.TOLLGATE_STALLED_CLIENT_S,
                routing=routing,
                deployment_limits=deployment_limits,
                deployment_budgets=deployment_budgets,
                admission=admission,
                cache=cache,
                observer=recorder,
                tells_stream_cost=settings.TOLLGATE_STREAM_COST,
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
            key_use=key_use,
            key_spend=key_spend,
            key_status=KeyStatusReader(threads.run, limiter, time.time),
            runs=BackgroundStore(commits, reader, threads.run, writer_id, _run_limits()),
            claims=IdempotencyStore(threads.run, writer_id),
            commits=commits,
            watch=watch,
            metrics=metrics,
            threads=threads,
            background=background,
            drain=drain,
        )
        PROBER.connect(runtime.services, runtime.response_services)
        stack.callback(PROBER.disconnect)
        yield runtime


def _retain(snapshot: Snapshot, breaker: Breaker, recorder: Recorder) -> None:
    """Forgets what is no longer in the snapshot."""
    breaker.retain(snapshot.targets)
    recorder.retain(lambda series: _is_served(series, snapshot))


def _is_served(series: Series, snapshot: Snapshot) -> bool:
    return is_known(series, snapshot.targets, snapshot.catalog.group_names)


def new_id() -> str:
    return str(uuid7())


@asynccontextmanager
async def _redis() -> AsyncIterator[Redis | None]:
    """The store that all processes share besides the database; None where there is no Redis."""
    if not settings.HAS_SHARED_RATE_LIMITS:
        yield None
        return
    no_retry: Retry = Retry(NoBackoff(), 0)  # an outage is noted at once
    async with Redis.from_url(settings.REDIS_URL, retry=no_retry) as client:
        yield client


@asynccontextmanager
async def _rate_limits(redis: Redis | None) -> AsyncIterator[RateLimits]:
    """The counters of all processes where there is a Redis, else those of this process."""
    local = MemoryRateLimits()
    if redis is None:
        yield local
        return
    async with AsyncExitStack() as stack:
        counters = RedisRateLimits(redis)
        stack.push_async_callback(counters.close)
        shared = SharedRateLimits(counters, None if settings.TOLLGATE_RATE_LIMITS_FAIL_CLOSED else local)
        stack.push_async_callback(shared.close)
        yield shared


@asynccontextmanager
async def _share_breaker(breaker: Breaker, redis: Redis, watch: RevisionWatch, owner: str) -> AsyncIterator[None]:
    """Keeps it in step with the breakers of the other processes."""
    async with AsyncExitStack() as stack:
        store = RedisBreakerStore(redis)
        stack.push_async_callback(store.close)
        sharing = BreakerSharing(breaker, store, owner=owner, find_known=watch.deployment_ids, now=time.time)
        await sharing.start()
        stack.push_async_callback(sharing.close)
        yield


@asynccontextmanager
async def _response_cache(redis: Redis | None) -> AsyncIterator[ResponseCache]:
    """The cache of all processes where there is a Redis, else that of this process."""
    room = settings.TOLLGATE_CACHE_BYTES
    if not room:
        yield NO_RESPONSE_CACHE
        return
    cache_settings = CacheSettings(
        secret=sha256(b"response cache " + settings.TOLLGATE_ENCRYPTION_KEYS[0].encode()).digest(),
        scope=CacheScope(settings.TOLLGATE_CACHE_SCOPE),
        ttl_s=settings.TOLLGATE_CACHE_TTL_S,
        max_ttl_s=settings.TOLLGATE_CACHE_MAX_TTL_S,
        max_entry_bytes=settings.TOLLGATE_CACHE_ENTRY_BYTES,
    )
    if redis is None:
        yield ResponseCache(MemoryAnswerStore(room), cache_settings)
        return
    async with AsyncExitStack() as stack:
        store = RedisAnswerStore(redis, room)
        stack.push_async_callback(store.close)
        yield ResponseCache(store, cache_settings)


def _run_limits() -> RunLimits:
    return RunLimits(
        running_per_key=settings.TOLLGATE_BACKGROUND_PER_KEY,
        running_per_organization=settings.TOLLGATE_BACKGROUND_PER_ORGANIZATION,
        queued_per_key=settings.TOLLGATE_QUEUED_PER_KEY,
        queued_per_organization=settings.TOLLGATE_QUEUED_PER_ORGANIZATION,
    )


def _database() -> tuple[Backend, Reader, Backend | None]:
    """The writer and the reader of the data path, and a second writer for large rows where a network is between."""
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        return SQLiteBackend(database["NAME"]), SQLiteReader(database["NAME"]), None
    parameters = settings.POSTGRESQL | conninfo_to_dict(settings.DATABASE_URL)
    if settings.TOLLGATE_ROW_SECURITY:  # each statement of the data path names the organization, or serves all
        parameters["options"] = f"{parameters.get('options') or ''} {ALL_ORGANIZATIONS_OPTION}"
    conninfo = make_conninfo("", **parameters)
    return PostgresBackend(conninfo), PostgresReader(conninfo), PostgresBackend(conninfo)
