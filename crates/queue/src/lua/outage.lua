-- Hears what a worker sees of an outage, and says who tells people.
-- KEYS     1 outage:<what>, 2 teller:<what>
-- ARGV     1 worker, 2 1 while it sees the outage (0: it is over), 3 1 when its alert has arrived
-- Returns  us | another | nobody
-- Why      One alert for all workers: the first that sees it is the teller. Each word lives for a lease: a teller that dies
--          before it told is followed by another, and an outage that nobody sees any more is over, so the next is news.
-- Bound    one worker; as many as have died during the outage are forgotten.
local worker, sees, told = arg(1), arg(2) == '1', arg(3) == '1'
local TOLD = '*' -- no worker's name
redis.call('ZREM', key(1), worker) -- a write that is allowed at maxmemory, so that the next one is too
redis.call('ZREMRANGEBYSCORE', key(1), '-inf', NOW)
if sees then
  redis.call('ZADD', key(1), NOW + LEASE_MS, worker)
  redis.call('PEXPIRE', key(1), LEASE_MS)
elseif redis.call('EXISTS', key(1)) == 0 then
  redis.call('DEL', key(2))
  return { 'nobody' }
end
local teller = told and TOLD or redis.call('GET', key(2)) or (sees and worker)
if teller == TOLD or teller == worker then redis.call('SET', key(2), teller, 'PX', LEASE_MS) end
if teller == TOLD or not sees then return { 'nobody' } end
return { teller == worker and 'us' or 'another' }
