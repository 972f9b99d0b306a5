-- Settles a claimed alert event.
-- KEYS     1 alerts, 2 alerts:claimed
-- ARGV     1 event id, 2 1 when Sentry accepted it, 3 time in ms until anybody may try again when it did not
-- Returns  settled | superseded (another worker has settled it)
-- Why      Only what Sentry accepted is removed: an event is reported at least once, and a second time only where its
--          worker died, or lost Redis, between the two.
-- Bound    one event.
local event = arg(1)
local fields = redis.call('HMGET', key(2), 'event', 'count')
if fields[1] ~= event then return { 'superseded' } end
if arg(2) == '1' then
  redis.call('DEL', key(2)) -- allowed at maxmemory, and so is every later write
  if fields[2] then redis.call('HINCRBY', key(1), 'pending', -tonumber(fields[2])) end
else
  redis.call('PEXPIRE', key(2), ALERTS.keep_ms) -- allowed at maxmemory, and so is every later write
  redis.call('HSET', key(2), 'by', '', 'until_ms', int(NOW_MS + tonumber(arg(3))))
end
return { 'settled' }
