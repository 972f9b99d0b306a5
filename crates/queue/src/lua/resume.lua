-- Lifts one pause.
-- KEYS     1 audit
-- ARGV     1 name ('' the only one in force), 2 operator, 3 audit entries kept
-- Returns  resumed | not_paused | unknown | several, then the fields of the pause (resumed) or of all pauses:
--          name, value
-- Why      Two people may have paused for two reasons: whoever lifts one must not lift the other unknowingly. A
--          pause of schema 2 has no name: its fields are by, reason and since_ms.
-- Bound    the pauses in force, at most 20.
local replies = {}
local function reply(state, fields)
  replies[1] = state
  for _, text in ipairs(fields) do replies[#replies + 1] = text end
  return replies
end

if redis.call('TYPE', PAUSED).ok ~= 'hash' then
  if redis.call('DEL', PAUSED) == 0 then
    redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(3), '*', 'what', 'resume', 'by', arg(2), 'why', 'not paused')
    return reply('not_paused', {})
  end
  wake()
  return reply('resumed', { 'default', '' })
end
local fields, name = redis.call('HGETALL', PAUSED), arg(1)
local nameless = redis.call('HEXISTS', PAUSED, 'since_ms') == 1
local value = name ~= '' and redis.call('HGET', PAUSED, name)
if not nameless and name == '' then
  if #fields > 2 then return reply('several', fields) end
  name, value = fields[1], fields[2]
end
if not nameless and not value then return reply('unknown', fields) end
if nameless then redis.call('DEL', PAUSED) else redis.call('HDEL', PAUSED, name) end
redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(3), '*', 'what', 'resume ' .. (name or ''), 'by', arg(2), 'why', '')
wake()
return reply('resumed', nameless and fields or { name, value })
