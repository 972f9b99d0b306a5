-- Records whether a worker sees an outage, which claim_alert.lua then gives to one worker to report.
-- KEYS     1 outage:<what>, 2 alerts:group:outage:<what>, 3 alerts:due
-- ARGV     1 worker, 2 1 while the worker sees the outage (0: over for this worker), 3 1 once the worker has reported it
--          by itself, while Redis was away, 4 what, 5 its sentence, 6 1 for what happens at one moment and has no end
-- Returns  nothing
-- Why      An outage lasts while some worker sees it; what each sees lives for one lease, so workers that die end with
--          theirs. One that comes back before its end was reported goes on. What a worker reported by itself is
--          not reported again. What has no end is noticed by many: once in a window it is reported.
-- Bound    one worker; removes the expired entries of workers that died during the outage. At maxmemory: 4 KiB.
local worker, ongoing, alone, group, detail = arg(1), arg(2) == '1', arg(3) == '1', 'outage:' .. arg(4), arg(5)
local once = arg(6) == '1'
local seen_ms = tonumber(redis.call('HGET', key(2), 'seen_ms') or nil)
redis.call('ZREM', key(1), worker) -- allowed at maxmemory, and so is every later write
redis.call('ZREMRANGEBYSCORE', key(1), '-inf', NOW_MS)
if once and ALERTS.earliest(group) > NOW_MS then return {} end
local others = redis.call('ZCARD', key(1)) > 0
if not ongoing then
  if not others and seen_ms then redis.call('ZADD', key(3), 'XX', ALERTS.earliest(group), group) end
  return {}
end
if seen_ms and NOW_MS - seen_ms > 2 * LEASE_MS then
  redis.call('DEL', key(2)) -- of an outage whose end no worker saw
  seen_ms = nil
end
redis.call('ZADD', key(1), NOW_MS + LEASE_MS, worker)
redis.call('PEXPIRE', key(1), LEASE_MS)
redis.call('HSETNX', key(2), 'since_ms', int(NOW_MS))
redis.call('HSET', key(2), 'seen_ms', int(NOW_MS), 'detail', detail)
redis.call('PEXPIRE', key(2), ALERTS.keep_ms)
if once then redis.call('HSET', key(2), 'once', 1) end
if alone then redis.call('HSETNX', key(2), 'remind_ms', int(NOW_MS + ALERTS.remind_ms)) end
redis.call('ZADD', key(3), 'NX', ALERTS.earliest(group), group)
return {}
