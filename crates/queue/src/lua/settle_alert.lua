-- Settles a claimed alert event.
-- KEYS     1 alerts, 2 alerts:claimed
-- ARGV     1 event id, 2 accepted | given_up | failed | refused (this event) | rejected (all that is sent), 3 time in ms
--          until anybody may try again, 4 the status that Sentry answered, where it rejects all
-- Returns  settled | superseded (another worker has settled it)
-- Why      Only what Sentry accepted is removed: an event is reported at least once, and a second time only where its
--          worker died, or lost Redis, between the two. How often it was refused is counted with it, so that the next
--          worker does not begin anew; what is refused for good would hold back all others, and is given up. Where
--          all are refused no event is to blame: its count begins anew, and `status` says so until one is accepted.
-- Bound    one event.
local event, outcome, retry_ms = arg(1), arg(2), tonumber(arg(3))
local claimed = redis.call('HMGET', key(2), 'event')[1]
redis.call('HGET', key(1), 'rejected_ms') -- reads every key before the first write
if claimed ~= event then return { 'superseded' } end
if outcome == 'accepted' or outcome == 'given_up' then
  redis.call('DEL', key(2)) -- allowed at maxmemory, and so is every later write
else
  redis.call('PEXPIRE', key(2), ALERTS.keep_ms) -- allowed at maxmemory, and so is every later write
  redis.call('HSET', key(2), 'by', '', 'until_ms', int(NOW_MS + retry_ms), 'set_ms', int(NOW_MS))
end
if outcome == 'accepted' then
  redis.call('HDEL', key(1), 'rejected_ms', 'rejected_status')
elseif outcome == 'refused' then
  redis.call('HINCRBY', key(2), 'refusals', 1)
elseif outcome == 'rejected' then
  redis.call('HDEL', key(2), 'refusals')
  redis.call('HSETNX', key(1), 'rejected_ms', int(NOW_MS))
  redis.call('HSET', key(1), 'rejected_status', arg(4))
end
return { 'settled' }
