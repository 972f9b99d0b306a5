-- Pauses the queue under a name: nothing is claimed until every pause is lifted or over.
-- KEYS     1 audit
-- ARGV     1 name, 2 operator, 3 reason, 4 most pauses, 5 audit entries kept,
--          6 how long it lasts in ms ('' until it is lifted)
-- Returns  paused | too_many
-- Why      One script that begins with HDEL or DEL works on a full Redis; MULTI is refused there as a whole. A key
--          of another type is replaced: it is this queue's own.
-- Bound    one pause. At maxmemory: 1 KiB.
local name = arg(1)
local sound = redis.call('TYPE', PAUSED).ok == 'hash'
if sound and redis.call('HLEN', PAUSED) >= tonumber(arg(4)) and redis.call('HEXISTS', PAUSED, name) == 0 then
  return { 'too_many' }
end
if sound then redis.call('HDEL', PAUSED, name) else redis.call('DEL', PAUSED) end
local until_ms = arg(6) ~= '' and NOW_MS + tonumber(arg(6)) or nil
redis.call('HSET', PAUSED, name, cjson.encode({ by = arg(2), reason = arg(3), since_ms = NOW_MS, until_ms = until_ms }))
redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(5), '*', 'what', 'pause ' .. name, 'by', arg(2), 'why', arg(3))
return { 'paused' }
