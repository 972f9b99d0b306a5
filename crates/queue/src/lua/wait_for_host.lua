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
local score = redis.call('HGET', job, 'score')
local ended = end_delivery(id, job, arg(2))
if ended ~= 'ended' then return { ended } end

redis.call('HINCRBY', job, 'deliveries', -1)
if host_full then
  redis.call('ZADD', SCHEDULED, recheck_ms, id)
  redis.call('ZADD', host_waiters_key(host), score or 0, id)
  count_host_waiters(host)
  redis.call('HSET', job, 'state', 'scheduled', 'waits_for_host', host)
else
  make_waiting(id, job)
  wake()
end
increment(arg(4)) -- no event: waiting for a host is routine
return { 'settled' }
