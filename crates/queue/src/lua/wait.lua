-- Hands a delivery back that may not go on yet, as if it had never been handed out.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 the host that is full ('' where it must not run beside others), 4 what it is counted as today
-- Returns  settled | superseded
-- Why      A job that is neither leased nor scheduled is lost. It stands in the host's line in the same step in which the
--          host is seen to be full: a permit that came free a moment before would call nobody.
-- Bound    one job, and who is called at its hosts.
local id, job, host = arg(1), key(1), arg(3)
local full = host ~= '' and not has_room(host, id)
local due = full and look_again(host)
local score = redis.call('HGET', job, 'score')
local ended = end_delivery(id, job, arg(2))
if ended ~= 'ended' then return { ended } end

redis.call('HINCRBY', job, 'deliveries', -1)
if full then
  redis.call('ZADD', SCHEDULED, due, id)
  redis.call('ZADD', line_key(host), score or 0, id)
  note_line(host)
  redis.call('HSET', job, 'state', 'scheduled', 'line', host)
else
  park(id, job)
  wake()
end
count(arg(4)) -- but no event: waiting in a line is no news
return { 'settled' }
