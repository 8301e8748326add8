"""The shared state of breakers, in Redis: one hash, read and written by one script. Redis' own clock decides.

Fields: `e:<circuit>` = "<until> <number> <class>", `r:<deployment>` = "<since>",
`p:<circuit>` = "<until> <owner>", and `generation`. Instants are milliseconds since the epoch.
"""

from collections.abc import Sequence
from uuid import uuid4

from redis.asyncio import Redis

from gateway.state.breaker_store import (
    KEPT_S,
    LEASE_S,
    MAX_ENTRIES,
    SLACK_S,
    Accepted,
    Change,
    Ejected,
    Ended,
    Lease,
    LeaseWanted,
    Refused,
    SharedEjection,
    SharedStates,
)
from gateway.state.redis_scripts import Script, ScriptRunner

KEY = "{tollgate}:breaker"
#: The hash is dropped when no process has changed it for so long; those that live write it anew.
UNUSED_S = 7 * 86400

SYNC = """
local key, owner = KEYS[1], ARGV[2]
local most, lease, kept, slack, unused =
  tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSETNX', key, 'generation', ARGV[1])

local function has_room(name) return redis.call('HEXISTS', key, name) == 1 or redis.call('HLEN', key) <= most end
local function read(name)
  local text = redis.call('HGET', key, name)
  if not text then return nil, nil end
  local instant, rest = string.match(text, '^(%d+) (.*)$')
  return tonumber(instant), rest
end
local function write(name, instant, rest)
  if has_room(name) then redis.call('HSET', key, name, string.format('%d', instant) .. ' ' .. rest) end
end

for place = 8, #ARGV, 4 do
  local kind, id, amount, text = ARGV[place], ARGV[place + 1], tonumber(ARGV[place + 2]), ARGV[place + 3]
  local known, holder = read((kind == 'lease' and 'p:' or 'e:') .. id)
  if kind == 'ejected' then
    if not known or known + slack < now + amount then
      write('e:' .. id, now + amount, text)
      redis.call('HDEL', key, 'p:' .. id)
    end
  elseif kind == 'ended' then
    if known and known <= now + amount + slack then redis.call('HDEL', key, 'e:' .. id, 'p:' .. id) end
  elseif kind == 'refused' then
    if has_room('r:' .. id) then redis.call('HSETNX', key, 'r:' .. id, string.format('%d', amount)) end
  elseif kind == 'accepted' then
    redis.call('HDEL', key, 'r:' .. id)
  elseif kind == 'lease' then
    local is_free = not known or known <= now or known > now + lease
    if is_free or holder == owner then write('p:' .. id, now + lease, owner) end
  end
end
if #ARGV > 7 then redis.call('PEXPIRE', key, unused) end

local reply, all = {now}, redis.call('HGETALL', key)
for place = 1, #all, 2 do
  local name, instant = all[place], tonumber(string.match(all[place + 1], '^%d+'))
  local kind = string.sub(name, 1, 2)
  if (kind == 'p:' and instant and instant <= now) or (kind == 'e:' and instant and instant + kept < now) then
    redis.call('HDEL', key, name)
  else
    reply[#reply + 1], reply[#reply + 2] = name, all[place + 1]
  end
end
return reply
"""


class RedisBreakerStore:
    """BreakerStore of all processes that share a Redis. Raises RedisError, OSError or TimeoutError while it is away.
    Closes: the owner, with `close()`."""

    def __init__(self, client: Redis, *, most: int = MAX_ENTRIES) -> None:
        self._scripts = ScriptRunner(client)
        self._sync = Script(client, SYNC)
        self._most = most

    async def close(self) -> None:
        await self._scripts.close()

    async def sync(self, owner: str, changes: Sequence[Change]) -> SharedStates:
        arguments: list[str | int] = [uuid4().hex, owner, self._most]
        arguments += [_ms(length_s) for length_s in (LEASE_S, KEPT_S, SLACK_S, UNUSED_S)]
        for change in changes:
            arguments += _flatten(change)
        now, *pairs = await self._scripts.run(self._sync, [KEY], arguments)
        return _read(now, {name.decode(): value.decode() for name, value in zip(*[iter(pairs)] * 2, strict=True)})


def _flatten(change: Change) -> tuple[str, str, int, str]:
    """(kind, circuit or deployment, milliseconds, text), as the script reads them."""
    match change:
        case Ejected(circuit, ejection):
            return "ejected", circuit, _ms(ejection.left_s), f"{ejection.number} {ejection.reason}"
        case Ended(circuit, left_s):
            return "ended", circuit, _ms(left_s), ""
        case Refused(deployment_id, since_s):
            return "refused", deployment_id, _ms(since_s), ""
        case Accepted(deployment_id):
            return "accepted", deployment_id, 0, ""
        case LeaseWanted(circuit):
            return "lease", circuit, 0, ""


def _read(now: int, fields: dict[str, str]) -> SharedStates:
    """Skips what it cannot read: another version of the gateway may write more."""
    ejections, refused, leases = dict[str, SharedEjection](), dict[str, float](), dict[str, Lease]()
    for name, value in fields.items():
        kind, _, key = name.partition(":")
        words = value.split(" ", 2)
        if not words[0].isdecimal():
            continue
        instant = int(words[0])
        match kind, words:
            case "e", [_, number, reason] if number.isdecimal():
                ejections[key] = SharedEjection(reason, int(number), (instant - now) / 1000)
            case "r", [_]:
                refused[key] = instant / 1000
            case "p", [_, owner]:
                leases[key] = Lease(owner, (instant - now) / 1000)
    return SharedStates(fields.get("generation", ""), ejections, refused, leases)


def _ms(length_s: float) -> int:
    return round(length_s * 1000)
