"""The rate limits of all processes, in Redis. Each step is one script, so it is atomic; Redis' own clock decides.

A counter of sums is a hash {bucket index: amount, "t": their total, "f" and "l": the first and the last index}, which
Redis drops when its last bucket has expired. A counter of slots is a sorted set {call: when its slot expires}. The
counters of one step belong to one organization, whose id is their hash tag: Redis Cluster keeps them together.
"""

from collections.abc import Callable, Iterable, Sequence

from redis.asyncio import Redis

from gateway.state.rate_limits import (
    SLOT_LEASE_S,
    SLOT_S,
    Demand,
    Grant,
    Level,
    Refusal,
    bucket_count,
    bucket_s,
)
from gateway.state.redis_scripts import Script, ScriptRunner

US = 1_000_000
RENEWED_AT_ONCE = 500
#: The third number of a demand's reply, where it is not the wait in microseconds.
FITS, NEVER_FITS = -1, -2

#: Amounts and instants (microseconds) stay below 2^53, up to which a Lua number is exact.
PRELUDE = """
local function read_clock(text)
  if text ~= '' then return tonumber(text) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function range(first, last)
  local names = {}
  for index = first, last do names[#names + 1] = string.format('%d', index) end
  return names
end

local function sum(key, names)
  local total = 0
  for _, amount in ipairs(redis.call('HMGET', key, unpack(names))) do total = total + (tonumber(amount) or 0) end
  return total
end

local function store(c)
  redis.call('HSET', c.key, 't', c.used, 'f', c.first, 'l', c.last)
  redis.call('PEXPIRE', c.key, math.ceil(((c.last + c.count + 1) * c.width - c.now) / 1000) + 1000)
end

local function open_sum(key, now, width, count)
  local state = redis.call('HMGET', key, 't', 'f', 'l')
  local index = math.floor(now / width)
  local c = {key = key, now = now, width = width, count = count, index = index, used = tonumber(state[1]) or 0,
    first = tonumber(state[2]) or index, last = tonumber(state[3]) or index, is_empty = not state[3]}
  if c.last < index - count then
    redis.call('DEL', key)
    c.used, c.first, c.last, c.is_empty = 0, index, index, true
  elseif c.first < index - count then
    local expired = range(c.first, index - count - 1)
    c.used = c.used - sum(key, expired)
    redis.call('HDEL', key, unpack(expired))
    c.first = index - count
    store(c)
  end
  if c.last > index then  -- the clock went back: what lies ahead of it counts from now
    local first = math.max(c.first, index)
    local names = range(first, c.last)
    local amount = sum(key, names)
    redis.call('HDEL', key, unpack(names))
    redis.call('HSET', key, string.format('%d', index), amount)
    c.first, c.last = math.min(c.first, index), index
    store(c)
  end
  c.resets = c.is_empty and 0 or (c.last + count + 1) * width - now
  return c
end

local function open_slots(key, now, lease)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  local newest = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  local resets = newest[2] and tonumber(newest[2]) - now or 0
  if resets > lease then  -- the clock went back
    for _, call in ipairs(redis.call('ZRANGEBYSCORE', key, now + lease, '+inf')) do
      redis.call('ZADD', key, now + lease, call)
    end
    resets = lease
  end
  return {key = key, now = now, is_slots = true, used = redis.call('ZCARD', key), resets = resets}
end

local function open(key, now, lease, width, count)
  if width == '0' then return open_slots(key, now, lease) end
  return open_sum(key, now, tonumber(width), tonumber(count))
end
"""

TAKE = (
    PRELUDE
    + """
local function wait(c, amount, limit)
  if amount > limit then return -2 end
  if c.is_slots then
    local oldest = redis.call('ZRANGE', c.key, 0, 0, 'WITHSCORES')
    return math.min(1000000, oldest[2] and tonumber(oldest[2]) - c.now or 0)
  end
  local surplus = c.used + amount - limit
  for first = c.first, c.last, 64 do
    local last = math.min(first + 63, c.last)
    for offset, taken in ipairs(redis.call('HMGET', c.key, unpack(range(first, last)))) do
      surplus = surplus - (tonumber(taken) or 0)
      if surplus <= 0 then return (first + offset - 1 + c.count + 1) * c.width - c.now end
    end
  end
  return 0
end

local now, call, lease = read_clock(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local counters, reply, is_granted = {}, {1, now}, true
for place, key in ipairs(KEYS) do
  local at = 5 * place - 1
  local c = open(key, now, lease, ARGV[at], ARGV[at + 1])
  local limit, amount = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  c.amount, c.wait = amount, -1
  if c.used + amount > limit and ARGV[at + 4] == '0' then
    c.wait, is_granted = wait(c, amount, limit), false
  end
  counters[place] = c
end
for place, c in ipairs(counters) do
  if not is_granted then
    reply[1] = 0
  elseif c.is_slots then
    redis.call('ZADD', c.key, now + lease, call)
    redis.call('PEXPIRE', c.key, math.ceil(lease / 1000) + 1000)
    c.used, c.resets = c.used + 1, lease
  else
    redis.call('HINCRBY', c.key, string.format('%d', c.index), c.amount)
    c.used, c.last = c.used + c.amount, c.index
    store(c)
    c.resets = (c.last + c.count + 1) * c.width - now
  end
  reply[3 * place], reply[3 * place + 1], reply[3 * place + 2] = c.used, c.resets, c.wait
end
return reply
"""
)

SETTLE = """
local call, at_us = ARGV[1], tonumber(ARGV[2])
for place, key in ipairs(KEYS) do
  local width, change = tonumber(ARGV[2 * place + 1]), tonumber(ARGV[2 * place + 2])
  if width == 0 then
    redis.call('ZREM', key, call)
  else
    local last = tonumber(redis.call('HGET', key, 'l'))
    local index = string.format('%d', math.min(math.floor(at_us / width), last or 0))
    local amount = last and tonumber(redis.call('HGET', key, index))
    if amount then
      change = math.max(change, -amount)
      redis.call('HINCRBY', key, index, change)
      redis.call('HINCRBY', key, 't', change)
    end
  end
end
"""

READ = (
    PRELUDE
    + """
local now, lease, reply = read_clock(ARGV[1]), tonumber(ARGV[2]), {}
for place, key in ipairs(KEYS) do
  local c = open(key, now, lease, ARGV[2 * place + 1], ARGV[2 * place + 2])
  reply[2 * place - 1], reply[2 * place] = c.used, c.resets
end
return reply
"""
)


class RedisRateLimits:
    """RateLimits of all processes that share a Redis. Raises RedisError, OSError or TimeoutError while it is away. A
    `clock` (seconds) stands in for that of Redis in tests. Closes: the owner, with `close()`."""

    def __init__(self, client: Redis, *, clock: Callable[[], float] | None = None) -> None:
        self._client = client
        self._clock = clock
        self._scripts = ScriptRunner(client)
        self._take, self._settle, self._read = (Script(client, source) for source in (TAKE, SETTLE, READ))

    async def close(self) -> None:
        await self._scripts.close()

    async def take(self, call_id: str, demands: Sequence[Demand]) -> Grant | Refusal:
        arguments: list[str | int] = [self._time(), call_id, int(SLOT_LEASE_S * US)]
        for demand in demands:
            arguments += (*_shape(demand), demand.limit, demand.amount, int(demand.is_shadow))
        granted, now_us, *numbers = await self._scripts.run(
            self._take, [demand.counter for demand in demands], arguments
        )
        levels = tuple(Level(numbers[n], numbers[n + 1] / US) for n in range(0, len(numbers), 3))
        if granted:
            return Grant(call_id, tuple(demands), now_us / US, levels, is_shared=True)
        waits = numbers[2::3]
        refused = tuple(place for place, wait in enumerate(waits) if wait != FITS)
        retry_after_s = None if NEVER_FITS in waits else max(waits) / US
        return Refusal(tuple(demands), refused, levels, retry_after_s)

    async def settle(self, grant: Grant, amounts: Sequence[int]) -> None:
        keys: list[str] = []
        arguments: list[str | int] = [grant.call_id, round(grant.at_s * US)]
        for demand, amount in zip(grant.demands, amounts, strict=True):
            if demand.span_s == SLOT_S or amount != demand.amount:
                keys.append(demand.counter)
                arguments += (_shape(demand)[0], amount - demand.amount)
        if keys:
            await self._scripts.run(self._settle, keys, arguments)

    async def renew(self, grants: Sequence[Grant]) -> None:
        slots = [(demand.counter, grant.call_id) for grant in grants for demand in grant.demands if not demand.span_s]
        for first in range(0, len(slots), RENEWED_AT_ONCE):
            expiry = await self._now_us() + int(SLOT_LEASE_S * US)
            async with self._client.pipeline(transaction=False) as pipeline:
                for counter, call_id in slots[first : first + RENEWED_AT_ONCE]:
                    pipeline.zadd(counter, {call_id: expiry}, xx=True)
                    pipeline.pexpire(counter, int(SLOT_LEASE_S * 1000) + 1000)
                await pipeline.execute()

    async def read(self, demands: Sequence[Demand]) -> tuple[Level, ...]:
        arguments: list[str | int] = [self._time(), int(SLOT_LEASE_S * US)]
        arguments += _flatten(_shape(demand) for demand in demands)
        numbers = await self._scripts.run(self._read, [demand.counter for demand in demands], arguments)
        return tuple(Level(numbers[n], numbers[n + 1] / US) for n in range(0, len(numbers), 2))

    def _time(self) -> str:
        """The time for a script; empty where the script asks Redis."""
        return "" if self._clock is None else str(round(self._clock() * US))

    async def _now_us(self) -> int:
        if self._clock is not None:
            return round(self._clock() * US)
        seconds, microseconds = await self._client.time()
        return int(seconds) * US + int(microseconds)


def _shape(demand: Demand) -> tuple[int, int]:
    """The width of its buckets in microseconds, and how many of them count; slots have none."""
    return (bucket_s(demand.span_s) * US, bucket_count(demand.span_s)) if demand.span_s else (0, 0)


def _flatten(pairs: Iterable[tuple[int, int]]) -> Iterable[int]:
    return (number for pair in pairs for number in pair)
