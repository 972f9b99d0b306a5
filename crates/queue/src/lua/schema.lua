-- Stores the schema version of the key space.
-- KEYS     none of its own
-- ARGV     1 version
-- Returns  1 when none was stored
-- Why      One script that begins with HDEL works on a full Redis; one caller alone hears that the queue is new.
-- Bound    one field. At maxmemory: 100 bytes.
local before = redis.call('HGET', META, 'schema')
if before ~= arg(1) then
  redis.call('HDEL', META, 'schema') -- allowed at maxmemory, and so is every later write
  redis.call('HSET', META, 'schema', arg(1))
end
return { before and '0' or '1' }
