-- Whether a pause is in force and how many jobs are in flight, at one moment.
-- KEYS     none of its own
-- ARGV     1 name of the pause
-- Returns  1 | 0, jobs in flight
-- Why      Read apart, the queue could be resumed and drained of another load in between.
-- Bound    two reads.
return { int(redis.call('HEXISTS', PAUSED, arg(1))), int(redis.call('ZCARD', LEASE)) }
