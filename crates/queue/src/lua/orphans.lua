-- Live jobs and dead letters as counted, and as they stand in the indexes; counts them anew after a search.
-- KEYS     none of its own
-- ARGV     1 bytes of one live job, as the search found them on average ('' only read)
-- Returns  jobs and letters counted, jobs and letters in the indexes
-- Why      Read apart, a job on its way from one index to another would be missed.
-- Bound    six reads.
local live = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', LEASE) + redis.call('ZCARD', EXCLUSIVE)
local dead = redis.call('ZCARD', DEAD)
local counted = redis.call('HMGET', META, 'jobs_count', 'dead_count')
if arg(1) ~= '' then
  redis.call('HDEL', META, 'jobs_count', 'dead_count', 'jobs_bytes') -- allowed at maxmemory, and so is every later write
  redis.call('HSET', META, 'jobs_count', live, 'dead_count', dead, 'jobs_bytes', int(live * tonumber(arg(1))))
end
return { int((counted[1] or live) + (counted[2] or dead)), int(live + dead) }
