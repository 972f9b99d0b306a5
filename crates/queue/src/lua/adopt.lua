-- Moves payloads from a list of another job system to the end of the inbox, its oldest first.
-- KEYS     1 that list
-- ARGV     1 LEFT|RIGHT: the end at which it is oldest, 2 how many at most, 3 the length that the inbox may reach
-- Returns  how many were moved, how many are left
-- Why      At every moment a payload is in their list or in ours. Whether it is a job is judged where all payloads are,
--          at the inbox; beyond its length nothing is moved, so that what must wait does so where its owners look.
--          LMOVE is the first write: Redis refuses it at maxmemory, and then nothing has moved.
-- Bound    as many as asked for (Rust asks for 100), one after the other; no payload passes through here.
local list, oldest, many, room = key(1), arg(1), tonumber(arg(2)), tonumber(arg(3))
local moved = 0
local standing = redis.call('LLEN', INBOX)
while moved < many and standing + moved < room do
  if not redis.call('LMOVE', list, INBOX, oldest, 'RIGHT') then break end
  moved = moved + 1
end
if moved > 0 then count('adopted', moved) end
return { int(moved), int(redis.call('LLEN', list)) }
