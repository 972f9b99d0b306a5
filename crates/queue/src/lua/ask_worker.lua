-- Asks one worker to claim nothing more, or to finish and exit; it hears so with its next heartbeat.
-- KEYS     1 worker:<id>, 2 audit
-- ARGV     1 worker, 2 quiet | stop, 3 operator, 4 reason, 5 audit entries kept
-- Returns  asked | gone (it has no entry)
-- Why      A field of the worker's own entry, which ends with it: a worker's id is never reused, so what one was asked
--          never reaches its successor. Whoever was asked to stop is not asked for less. It begins with HDEL, so it
--          works on a full Redis.
-- Bound    one field. At maxmemory: 1 KiB.
local worker, asked = key(1), arg(2)
local entry = redis.call('HMGET', worker, 'heartbeat_ms', 'asked')
if not entry[1] then return { 'gone' } end
if entry[2] == 'stop' then asked = 'stop' end
redis.call('HDEL', worker, 'asked') -- allowed at maxmemory, and so is every later write
redis.call('HSET', worker, 'asked', asked)
redis.pcall('XADD', key(2), 'MAXLEN', '~', arg(5), '*', 'what', arg(2) .. ' worker', 'by', arg(3), 'why', arg(4),
  'selection', arg(1))
return { 'asked' }
