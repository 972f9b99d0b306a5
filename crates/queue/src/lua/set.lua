-- Stores settings of the queue.
-- KEYS     1 audit
-- ARGV     1 operator ('' a worker that seeds what is absent), 2 audit entries kept, then name and value of each
-- Returns  per setting: name, value before ('' none), value now
-- Why      One place that every worker obeys: what is enforced is what is shown.
-- Bound    as many as given; there are fewer than 20. At maxmemory: 1 KiB.
local by, replies, said = arg(1), {}, {}
for i = 3, #ARGV - 3, 2 do
  local name, value = arg(i), arg(i + 1)
  local before = redis.call('HGET', META, name)
  if by ~= '' or not before then
    redis.call('HDEL', META, name) -- allowed at maxmemory, and so is every later write
    redis.call('HSET', META, name, value)
    if before ~= value then said[#said + 1] = name .. '=' .. value end
  end
  replies[#replies + 1] = name
  replies[#replies + 1] = before or ''
  replies[#replies + 1] = redis.call('HGET', META, name)
end
if by ~= '' and said[1] then
  redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(2), '*', 'what', 'set', 'by', by, 'why', table.concat(said, ' '))
end
wake() -- a larger budget may let claims go on
return replies
