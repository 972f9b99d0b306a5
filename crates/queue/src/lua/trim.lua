-- Forgets the oldest dead letters beyond the caps.
-- KEYS     none of its own; job:<id> and dead:kind:<kind> follow from what is oldest
-- ARGV     1 most letters, 2 greatest age in ms, 3 most bytes, 4 how many at most now
-- Returns  how many were forgotten because of their age, of the number, and of the bytes of all
-- Why      Letter, index and byte count are one fact. What is forgotten is counted, never silent; what only grew old is
--          counted apart, because that is how it is meant to be.
-- Bound    as many as asked for (Rust asks for 100).
local count_max, age_max, bytes_max, many = tonumber(arg(1)), tonumber(arg(2)), tonumber(arg(3)), tonumber(arg(4))
local by = { age = 0, count = 0, bytes = 0 }
local letters = redis.call('ZCARD', DEAD)
local bytes = tonumber(redis.call('HGET', META, 'dead_bytes') or 0)
for _ = 1, many do
  local oldest = redis.call('ZRANGE', DEAD, 0, 0, 'WITHSCORES')
  if not oldest[1] then break end
  local id, died = oldest[1], tonumber(oldest[2])
  local cap = died < NOW - age_max and 'age' or letters > count_max and 'count' or bytes > bytes_max and 'bytes'
  if not cap then break end
  local j = redis.call('HMGET', job_key(id), 'kind', 'size', 'state')
  remove_dead_letter(id, j[1], j[2])
  if j[3] == 'dead' then redis.call('UNLINK', job_key(id)) end
  letters, bytes = letters - 1, bytes - tonumber(j[2] or 0)
  by[cap] = by[cap] + 1
end
if by.age > 0 then count('outlived', by.age) end
if by.count + by.bytes > 0 then count('evicted', by.count + by.bytes) end
return { int(by.age), int(by.count), int(by.bytes) }
