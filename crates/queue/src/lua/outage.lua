-- Hears what a worker ongoing of an outage, and says who tells people.
-- KEYS     1 outage:<what>, 2 alert_leader:<what>
-- ARGV     1 worker, 2 1 while it ongoing the outage (0: it is over), 3 1 when its alert has arrived
-- Returns  us | another | nobody
-- Why      One alert for all workers: the first that ongoing it is the leader. Each word lives for a lease: a leader that dies
--          before it reported is followed by another, and an outage that nobody ongoing any more is over, so the next is news.
-- Bound    one worker; as many as have died during the outage are forgotten.
local worker, ongoing, reported = arg(1), arg(2) == '1', arg(3) == '1'
local REPORTED = '*' -- no worker's name
redis.call('ZREM', key(1), worker) -- a write that is allowed at maxmemory, so that the next one is too
redis.call('ZREMRANGEBYSCORE', key(1), '-inf', NOW)
if ongoing then
  redis.call('ZADD', key(1), NOW + LEASE_MS, worker)
  redis.call('PEXPIRE', key(1), LEASE_MS)
elseif redis.call('EXISTS', key(1)) == 0 then
  redis.call('DEL', key(2))
  return { 'nobody' }
end
local leader = reported and REPORTED or redis.call('GET', key(2)) or (ongoing and worker)
if leader == REPORTED or leader == worker then redis.call('SET', key(2), leader, 'PX', LEASE_MS) end
if leader == REPORTED or not ongoing then return { 'nobody' } end
return { leader == worker and 'us' or 'another' }
