-- Records whether a worker sees an outage, and elects the alert leader: the one worker that reports it.
-- KEYS     1 outage:<what>, 2 alert_leader:<what>
-- ARGV     1 worker, 2 1 while the worker sees the outage (0: over for this worker), 3 1 once its alert was
--          delivered
-- Returns  us (this worker is to report it) | another (another worker is) | nobody (reported, or over)
-- Why      One alert for all workers: the first worker that sees the outage is the leader. Every entry lives
--          for one lease: a leader that dies before it has reported is replaced, and an outage that no worker
--          sees any more is over, so the next one is reported again.
-- Bound    one worker; removes the expired entries of workers that died during the outage.
local worker, ongoing, reported = arg(1), arg(2) == '1', arg(3) == '1'
local REPORTED = '*' -- not a valid worker name
redis.call('ZREM', key(1), worker) -- allowed at maxmemory, and so is every later write
redis.call('ZREMRANGEBYSCORE', key(1), '-inf', NOW_MS)
if ongoing then
  redis.call('ZADD', key(1), NOW_MS + LEASE_MS, worker)
  redis.call('PEXPIRE', key(1), LEASE_MS)
elseif redis.call('EXISTS', key(1)) == 0 then
  redis.call('DEL', key(2))
  return { 'nobody' }
end
local leader = reported and REPORTED or redis.call('GET', key(2)) or (ongoing and worker)
if leader == REPORTED or leader == worker then redis.call('SET', key(2), leader, 'PX', LEASE_MS) end
if leader == REPORTED or not ongoing then return { 'nobody' } end
return { leader == worker and 'us' or 'another' }
