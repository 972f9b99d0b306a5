-- Marks a live job as cancelled: it is settled as a skip when it is next claimed, or stopped while in flight.
-- KEYS     1 job:<id>
-- ARGV     1 id
-- Returns  marked | missing
-- Why      Check and mark are one step, so the mark cannot recreate the hash of a job that has just ended.
-- Bound    one job.
local state = redis.call('HGET', key(1), 'state')
if not state or not INDEX_OF[state] then return { 'missing' } end
redis.call('HDEL', key(1), 'cancel', 'run_at_ms') -- allowed at maxmemory, and so is every later write
redis.call('HSET', key(1), 'cancel', int(NOW_MS))
if state == 'scheduled' then redis.call('ZADD', SCHEDULED, 'XX', NOW_MS, arg(1)) end
increment('cancelled')
return { 'marked' }
