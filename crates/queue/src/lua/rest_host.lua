-- Makes a host rest until a time: no job that is not in flight there visits it before.
-- KEYS     1 audit
-- ARGV     1 host, 2 how long in ms, 3 operator, 4 reason, 5 most such rests, 6 audit entries kept
-- Returns  rests | too_many
-- Why      As pause.lua: it begins with HDEL, so it works on a full Redis, and a key of another type is replaced. A
--          rest that is over is removed by the next one.
-- Bound    the rests by hand, at most 100. At maxmemory: 1 KiB.
local host, until_ms = arg(1), NOW_MS + tonumber(arg(2))
if redis.call('TYPE', HOSTS.rests).ok ~= 'hash' then redis.call('DEL', HOSTS.rests) end
for _, known in ipairs(redis.call('HKEYS', HOSTS.rests)) do
  if not end_by_hand(known) then redis.call('HDEL', HOSTS.rests, known) end
end
if redis.call('HLEN', HOSTS.rests) >= tonumber(arg(5)) and redis.call('HEXISTS', HOSTS.rests, host) == 0 then
  return { 'too_many' }
end
redis.call('HDEL', HOSTS.rests, host) -- allowed at maxmemory, and so is every later write
redis.call('HSET', HOSTS.rests, host, cjson.encode({ by = arg(3), reason = arg(4), since_ms = NOW_MS, until_ms = until_ms }))
redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(6), '*', 'what', 'pause host ' .. host, 'by', arg(3), 'why', arg(4))
return { 'rests' }
