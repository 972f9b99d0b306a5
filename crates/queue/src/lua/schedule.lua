-- Settles a delivery as retried or postponed: schedules the job to run again after a delay.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 retried|postponed, 4 after_ms, 5 kind of failure, 6 the failure (JSON), 7 pair, 8
--          counter to increment: failures|ambiguous_exits|postponements, or nothing, 9 priority offset, 10 the
--          failure in a sentence
-- Returns  settled | superseded
-- Why      A job in neither lease nor scheduled would be lost. Once due it gets a place behind the newest jobs:
--          at its old one it would go in front of jobs that never had a chance, again and again.
-- Bound    one job. At maxmemory: nothing but counters, its offset and its time, the failure is left out.
local id, token, state, after_ms, counter = arg(1), arg(2), arg(3), tonumber(arg(4)), arg(8)
local job, full = key(1), is_full()
local unique = PREFIX .. 'unique:' .. (redis.call('HGET', job, 'unique') or '')
redis.call('EXISTS', unique) -- reads a derived key before the first write
local ended = end_delivery(id, job, token)
if ended ~= 'ended' then return { ended } end

redis.call('ZADD', SCHEDULED, NOW_MS + after_ms, id)
redis.call('HSET', job, 'state', 'scheduled', 'priority_offset', arg(9), 'run_at_ms', int(NOW_MS + after_ms))
if not full then redis.call('HSET', job, 'last_failure', arg(6)) end
if not full then log_delivery(job, state, arg(5) .. ': ' .. arg(10)) end
if counter ~= 'nothing' then
  redis.call('HINCRBY', job, counter, 1)
  -- Counts the requested delay, not the time until it runs: an open circuit breaker lengthens the latter
  -- only.
  if counter == 'postponements' then redis.call('HINCRBY', job, 'postponed_ms', after_ms) end
end
recount_job(job, unique)
increment(state)
emit_event(state, id, arg(7), arg(5))
return { 'settled' }
