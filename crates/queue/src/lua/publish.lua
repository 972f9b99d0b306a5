-- Publishes what the looker saw, for the gauges of the other workers.
-- KEYS     1 glance
-- ARGV     1 status (JSON), 2 its life in ms, 3 payloads left in the inbox
-- Returns  nothing
-- Why      Each worker exports the whole queue's gauges; read by each, their cost would grow with the square of the
--          fleet. The payloads of the inbox have no time of their own: since when it was last empty is the age of
--          the oldest one at most.
-- Bound    one status. At maxmemory: 16 KiB.
redis.call('DEL', key(1)) -- allowed at maxmemory, and so is every later write
redis.call('SET', key(1), arg(1), 'PX', arg(2))
if arg(3) == '0' then redis.call('HDEL', META, 'inbox_since_ms') else redis.call('HSETNX', META, 'inbox_since_ms', int(NOW_MS)) end
return {}
