-- Live jobs, dead letters and letters in the trash as counted, and as they stand in the indexes; counts them anew after
-- a search.
-- KEYS     none of its own
-- ARGV     1 bytes of one live job, as the search found them on average ('' only read)
-- Returns  jobs and letters counted, jobs and letters in the indexes
-- Why      Read apart, a job on its way from one index to another would be missed.
-- Bound    seven reads.
local live = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', LEASE) + redis.call('ZCARD', EXCLUSIVE)
local dead, trash = redis.call('ZCARD', DEAD), redis.call('ZCARD', TRASH)
local counted = redis.call('HMGET', META, 'jobs_count', 'dead_count', 'trash_count')
if arg(1) ~= '' then
  redis.call('HDEL', META, 'jobs_count', 'dead_count', 'trash_count', 'jobs_bytes') -- allowed at maxmemory, and then all
  redis.call('HSET', META, 'jobs_count', live, 'dead_count', dead, 'jobs_bytes', int(live * tonumber(arg(1))),
    'trash_count', trash)
end
return { int((counted[1] or live) + (counted[2] or dead) + (counted[3] or trash)), int(live + dead + trash) }
