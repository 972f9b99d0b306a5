-- Is this delivery still ours? Asked right before something is written outside of Redis; renews the lease while at it.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token
-- Returns  held | lost
-- Why      The answer and the renewal must be of one moment: a lease that is confirmed has its whole length ahead.
-- Bound    one job.
if redis.call('HGET', key(1), 'token') ~= arg(2) then return { 'lost' } end
redis.call('ZREM', LEASE, arg(1)) -- a write that is allowed at maxmemory, so that the next one is too
redis.call('ZADD', LEASE, NOW + LEASE_MS, arg(1))
return { 'held' }
