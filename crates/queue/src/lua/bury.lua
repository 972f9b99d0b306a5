-- Settles a delivery as a dead letter, with its evidence.
-- KEYS     1 job:<id>, 2 unique:<sha256>, 3 dead:kind:<kind>
-- ARGV     1 id, 2 token, 3 kind, 4 reason (JSON), 5 pair, 6 first bytes of a payload that cannot be read ('' else),
--          7 its length, 8 its labelled hash
-- Returns  settled | superseded
-- Why      The lock is given back in the same step: whoever fixes the cause may ask again at once.
--          What follows the job does so now, whatever this one died of, and never again: a replay is of this pair exclusively.
-- Bound    one job, and the one that follows it.
local id, token, kind, reason, raw = arg(1), arg(2), arg(3), arg(4), arg(6)
local job = key(1)
local payload = redis.call('HSTRLEN', job, 'payload')
local next = follow_up_of(id, job)
local ended = end_delivery(id, job, token)
if ended ~= 'ended' then return { ended } end

if raw ~= '' then
  redis.call('HSET', job, 'raw', raw, 'raw_length', arg(7), 'raw_hash', arg(8))
  redis.call('HDEL', job, 'payload')
  payload = #raw
end
bury(id, job, kind, reason, payload + #reason)
unlock(key(2), id)
event('buried', id, arg(5), kind)
admit_follow_up(next, arg(5))
return { 'settled' }
