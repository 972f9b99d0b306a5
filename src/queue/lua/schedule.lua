-- Settles a delivery as "again, later".
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 retried|postponed, 4 after_ms, 5 kind, 6 the failure (JSON), 7 pair,
--          8 failures|doubts|postponements: what it is counted as
-- Returns  settled | superseded
-- Why      A job that is neither leased nor scheduled is lost.
-- Bound    one job.
local id, token, state = arg(1), arg(2), arg(3)
local job = key(1)
local ended = end_delivery(id, job, token)
if ended ~= 'ended' then return { ended } end

redis.call('ZADD', SCHEDULED, NOW + tonumber(arg(4)), id)
redis.call('HSET', job, 'state', 'scheduled', 'last', arg(6))
redis.call('HINCRBY', job, arg(8), 1)
if state == 'postponed' then redis.call('HSETNX', job, 'postponed_ms', int(NOW)) end
count(state)
event(state, id, arg(7), arg(5))
return { 'settled' }
