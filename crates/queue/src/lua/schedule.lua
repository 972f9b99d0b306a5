-- Settles a delivery as "again, later".
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 retried|postponed, 4 after_ms, 5 kind, 6 the failure (JSON), 7 pair,
--          8 failures|ambiguous_exits|postponements|nothing: what it is counted as
-- Returns  settled | superseded
-- Why      A job that is neither leased nor scheduled is lost.
-- Bound    one job.
local id, token, state, after_ms, counted = arg(1), arg(2), arg(3), tonumber(arg(4)), arg(8)
local job = key(1)
local ended = end_delivery(id, job, token)
if ended ~= 'ended' then return { ended } end

redis.call('ZADD', SCHEDULED, NOW + after_ms, id)
redis.call('HSET', job, 'state', 'scheduled', 'last_failure', arg(6))
if counted ~= 'nothing' then
  redis.call('HINCRBY', job, counted, 1)
  -- The delay that was given, not the time until it runs: an open breaker lengthens the one and never the other.
  if counted == 'postponements' then redis.call('HINCRBY', job, 'postponed_ms', after_ms) end
end
count(state)
event(state, id, arg(7), arg(5))
return { 'settled' }
