-- Buries an invalid payload from the head of the inbox.
-- KEYS     1 job:<id>, 2 dead:kind:<kind>
-- ARGV     1 id, 2 kind, 3 reason (JSON), 4 the payload's first bytes, 5 its full length, 6 its hash,
--          prefixed with the algorithm
-- Returns  buried | moved (another payload is at the head by now)
-- Why      The evidence is stored and the payload removed in one step, or it would be buried twice or lost.
-- Bound    one payload.
local id, kind, reason, head, length = arg(1), arg(2), arg(3), arg(4), tonumber(arg(5))
local raw = redis.call('LINDEX', INBOX, 0)
if not raw or #raw ~= length or string.sub(raw, 1, #head) ~= head then return { 'moved' } end
local job = key(1)
redis.call('HSET', job, 'raw', head, 'raw_length', int(length), 'raw_hash', arg(6), 'enqueued_ms', int(NOW_MS))
bury(id, job, kind, reason, #head + #reason)
redis.call('LTRIM', INBOX, 1, -1)
emit_event('buried', id, '', kind)
return { 'buried' }
