-- Hands a delivery back that may not go on yet, as if it had never been handed out.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 the host that is full ('' where it must not run beside others), 4 what it is counted as today
-- Returns  settled | superseded
-- Why      A job that is neither leased nor scheduled is lost. It stands in the host's line in the same step in which the
--          host is seen to be full: a permit that came free a moment before would call nobody.
-- Bound    one job, and who is called at its hosts.
local id, job, host = arg(1), key(1), arg(3)
local full = host ~= '' and not host_has_room(host, id)
local due = full and recheck_host_at(host)
local score = redis.call('HGET', job, 'score')
local ended = end_delivery(id, job, arg(2))
if ended ~= 'ended' then return { ended } end

redis.call('HINCRBY', job, 'deliveries', -1)
if full then
  redis.call('ZADD', SCHEDULED, due, id)
  redis.call('ZADD', host_waiters_key(host), score or 0, id)
  count_host_waiters(host)
  redis.call('HSET', job, 'state', 'scheduled', 'waits_for_host', host)
else
  make_waiting(id, job)
  wake()
end
count(arg(4)) -- but no event: waiting in a line is no news
return { 'settled' }
