-- Marks a live job as not wanted any more; it is settled as a skip when it is claimed, or killed while it runs.
-- KEYS     1 job:<id>
-- ARGV     1 id
-- Returns  marked | missing
-- Why      The mark must not create a job that has just left.
-- Bound    one job.
local state = redis.call('HGET', key(1), 'state')
if not state or not LIVE[state] then return { 'missing' } end
redis.call('HSET', key(1), 'cancel', int(NOW))
if state == 'scheduled' then redis.call('ZADD', SCHEDULED, 'XX', NOW, arg(1)) end
count('cancelled')
return { 'marked' }
