"""The cached answers of all processes, in Redis, with one round trip a step.

An entry is a string that expires. Beside the entries stand their sizes and their order, for all of them and for each
owner, which bound them without a limit of Redis itself. What Redis has lost of these counts as nothing.
"""

import logging
import time
from collections.abc import Callable
from hashlib import sha256

from redis import RedisError
from redis.asyncio import Redis

from gateway.state.answer_store import ENTRY_OVERHEAD_BYTES, SHARE
from gateway.state.redis_scripts import Script, ScriptRunner

logger = logging.getLogger(__name__)

#: One hash tag: a script may use all keys.
PREFIX = "{tollgate-cache}:"
OUTAGES = (RedisError, OSError, TimeoutError)
RETRY_S = 1.0  # after a failure nothing is asked for so long
LOG_S = 60.0
#: Answers that wait to be written together; further ones are lost while there are so many.
MAX_PENDING_BYTES = 4 * 1024 * 1024

#: No more bytes travel than an entry may have, whatever stands under its key.
GET = "return redis.call('GETRANGE', KEYS[1], 0, ARGV[1])"

PUT = """
local prefix, key, owner, value = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local size, most, share, ttl_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local all, sizes, sums, own = prefix .. 'all', prefix .. 'sizes', prefix .. 'sums', prefix .. 'owner:' .. owner

local function sum(name) return tonumber(redis.call('HGET', sums, name)) or 0 end

local function shrink(name, amount)
  if redis.call('HINCRBY', sums, name, -amount) <= 0 then redis.call('HDEL', sums, name) end
end

local function drop(member)
  local old_size, old_owner = string.match(redis.call('HGET', sizes, member) or '', '^(%d+) (.*)$')
  redis.call('DEL', prefix .. 'entry:' .. member)
  redis.call('ZREM', all, member)
  if old_size then
    redis.call('HDEL', sizes, member)
    redis.call('ZREM', prefix .. 'owner:' .. old_owner, member)
    shrink('', old_size)
    shrink(old_owner, old_size)
  end
end

drop(key)
if size > most then return 0 end
while sum('') + size > most do
  local order = all
  if sum(owner) + size > share and redis.call('ZCARD', own) > 0 then order = own end
  local oldest = redis.call('ZRANGE', order, 0, 0)[1]
  if oldest then
    drop(oldest)
    redis.call('ZREM', order, oldest)
  else
    redis.call('DEL', sums, sizes)
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
redis.call('SET', prefix .. 'entry:' .. key, value, 'PX', ttl_ms)
redis.call('HSET', sizes, key, string.format('%d %s', size, owner))
redis.call('HINCRBY', sums, '', size)
redis.call('HINCRBY', sums, owner, size)
for _, order in ipairs({all, own}) do redis.call('ZADD', order, now, key) end
for _, name in ipairs({all, sizes, sums, own}) do
  if redis.call('PTTL', name) < ttl_ms + 60000 then redis.call('PEXPIRE', name, ttl_ms + 60000) end
end
return 1
"""


class RedisAnswerStore:
    """AnswerStore of all processes that share a Redis; `max_bytes` bounds all entries together. Closes: the owner, with
    `close()`."""

    def __init__(self, client: Redis, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._scripts = ScriptRunner(client)
        self._get, self._put = Script(client, GET), Script(client, PUT)
        self._away_until = self._silent_until = float("-inf")
        self._pending_bytes = 0

    async def close(self) -> None:
        await self._scripts.close()

    async def get(self, key: str, max_bytes: int) -> bytes | None:
        if self._clock() < self._away_until:
            return None
        try:
            value: bytes = await self._scripts.run(self._get, [f"{PREFIX}entry:{key}"], [max_bytes])
        except OUTAGES as error:
            self._note_outage(error)
            return None
        return value if 0 < len(value) <= max_bytes else None

    async def put(self, key: str, value: bytes, *, owner: str, ttl_s: float) -> None:
        size = len(value) + ENTRY_OVERHEAD_BYTES
        is_crowded = self._pending_bytes > 0 and self._pending_bytes + size > MAX_PENDING_BYTES
        if is_crowded or self._clock() < self._away_until:
            return
        name = sha256(owner.encode()).hexdigest()[:32]
        ttl_ms = max(1, round(ttl_s * 1000))
        most, share = self._max_bytes, self._max_bytes // SHARE
        arguments: list[str | int | bytes] = [PREFIX, key, name, value, size, most, share, ttl_ms]
        self._pending_bytes += size
        try:
            await self._scripts.run(self._put, [f"{PREFIX}entry:{key}"], arguments)
        except OUTAGES as error:
            self._note_outage(error)
        finally:
            self._pending_bytes -= size

    def _note_outage(self, error: Exception) -> None:
        now = self._clock()
        self._away_until = now + RETRY_S
        if now >= self._silent_until:
            self._silent_until = now + LOG_S
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            logger.error("the response cache in Redis cannot be used: calls go to their upstreams", extra={"why": why})
