-- Moves payloads from a list of another job system to the tail of the inbox, oldest first.
-- KEYS     1 the foreign list
-- ARGV     1 LEFT|RIGHT: the end of the list that holds its oldest payload, 2 most payloads to move, 3 inbox
--          length at which to stop
-- Returns  payloads moved, payloads left in the foreign list
-- Why      LMOVE keeps each payload in exactly one of the two lists. Payloads are validated later, at the
--          inbox. Above the length limit nothing moves, so the excess stays in the list its owners monitor.
--          LMOVE is the first write: Redis refuses it at maxmemory, and then nothing has moved.
-- Bound    as many as requested (Rust requests 100), one LMOVE each; payloads never enter Lua.
local list, oldest_end, limit, inbox_max = key(1), arg(1), tonumber(arg(2)), tonumber(arg(3))
local moved = 0
local inbox_length = redis.call('LLEN', INBOX)
while moved < limit and inbox_length + moved < inbox_max do
  if not redis.call('LMOVE', list, INBOX, oldest_end, 'RIGHT') then break end
  moved = moved + 1
end
if moved > 0 then increment('adopted', moved) end
return { int(moved), int(redis.call('LLEN', list)) }
