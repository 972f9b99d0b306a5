-- Marks a live job as cancelled: it is settled as a skip when it is next claimed, or stopped while in flight.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 operation ('' none), 3 operator
-- Returns  marked | missing
-- Why      Check and mark are one step, so the mark cannot recreate the hash of a job that has just ended.
-- Bound    one job.
local state = redis.call('HGET', key(1), 'state')
redis.call('EXISTS', OPERATIONS.jobs_key(arg(2))) -- reads a derived key before the first write
if not state or not INDEX_OF[state] then
  OPERATIONS.record(arg(2), arg(1), 'missing')
  return { 'missing' }
end
redis.call('HDEL', key(1), 'cancel', 'run_at_ms') -- allowed at maxmemory, and so is every later write
redis.call('HSET', key(1), 'cancel', int(NOW_MS))
if state == 'scheduled' then redis.call('ZADD', SCHEDULED, 'XX', NOW_MS, arg(1)) end
log_line(key(1), { what = 'cancelled', by = arg(3), operation = arg(2) })
OPERATIONS.record(arg(2), arg(1), 'cancelled')
increment('cancelled')
return { 'marked' }
