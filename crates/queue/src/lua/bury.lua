-- Settles a delivery as a dead letter and stores its evidence.
-- KEYS     1 job:<id>, 2 unique:<sha256>, 3 dead:kind:<kind>
-- ARGV     1 id, 2 token, 3 kind, 4 reason (JSON), 5 pair, 6 first bytes of an unreadable payload (''
--          otherwise), 7 its full length, 8 its hash, prefixed with the algorithm
-- Returns  settled | superseded
-- Why      The lock is released in the same step, so the pair can be enqueued again as soon as the cause is
--          fixed. The follow-up job is admitted now, whatever this one died of, and only now: a replay covers
--          this pair only.
-- Bound    one job and its follow-up.
local id, token, kind, reason, raw = arg(1), arg(2), arg(3), arg(4), arg(6)
local job = key(1)
local payload = redis.call('HSTRLEN', job, 'payload')
local follow_up = follow_up_of(id, job)
local ended = end_delivery(id, job, token)
if ended ~= 'ended' then return { ended } end

if raw ~= '' then
  redis.call('HSET', job, 'raw', raw, 'raw_length', arg(7), 'raw_hash', arg(8))
  redis.call('HDEL', job, 'payload')
  payload = #raw
end
bury(id, job, kind, reason, payload + #reason)
release_unique_lock(key(2), id)
emit_event('buried', id, arg(5), kind)
admit_follow_up(follow_up, arg(5))
return { 'settled' }
