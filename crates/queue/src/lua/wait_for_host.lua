-- Settles a delivery whose job must wait for its host or run exclusively, and un-counts the delivery.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 the full host ('' when the job must run exclusively), 4 counter to increment in
--          today's stats
-- Returns  settled | superseded
-- Why      A job in neither lease nor scheduled would be lost. It joins the host waiters in the same step
--          that sees the host full: a permit released a moment earlier would wake no job.
-- Bound    one job, and the host waiters woken at its hosts.
local id, job, host = arg(1), key(1), arg(3)
local host_full = host ~= '' and not host_has_room(host, id)
local recheck_ms = host_full and recheck_host_at(host)
local fields = redis.call('HMGET', job, 'score', 'enqueued_ms', 'unique')
local unique = PREFIX .. 'unique:' .. (fields[3] or '')
redis.call('EXISTS', unique) -- reads a derived key before the first write
local ended = end_delivery(id, job, arg(2))
if ended ~= 'ended' then return { ended } end

redis.call('HINCRBY', job, 'deliveries', -1)
if host_full then
  redis.call('ZADD', SCHEDULED, recheck_ms, id)
  redis.call('ZADD', host_waiters_key(host), fields[1] or 0, id)
  redis.pcall('ZADD', WAITING, fields[2] or NOW_MS, id)
  count_host_waiters(host)
  redis.call('HSET', job, 'state', 'scheduled', 'waits_for_host', host)
else
  make_waiting(id, job)
  wake()
end
recount_job(job, unique)
increment(arg(4)) -- no event: waiting for a host is routine
return { 'settled' }
