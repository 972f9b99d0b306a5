-- Checks that a delivery still holds its lease, and renews it: called right before a write outside Redis.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token
-- Returns  held | lost
-- Why      Check and renewal are one step, so a confirmed lease has its full length left.
-- Bound    one job.
if redis.call('HGET', key(1), 'token') ~= arg(2) then return { 'lost' } end
redis.call('ZREM', LEASE, arg(1)) -- allowed at maxmemory, and so is every later write
redis.call('ZADD', LEASE, NOW_MS + LEASE_MS, arg(1))
return { 'held' }
