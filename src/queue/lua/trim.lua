-- Forgets the oldest dead letters beyond the caps.
-- KEYS     none of its own; job:<id> and dead:kind:<kind> follow from what is oldest
-- ARGV     1 most letters, 2 greatest age in ms, 3 most bytes, 4 how many at most now
-- Returns  the ids that were evicted
-- Why      Letter, index and byte count are one fact. What is evicted is counted, never silent.
-- Bound    as many as asked for (Rust asks for 100).
local count_max, age_max, bytes_max, many = tonumber(arg(1)), tonumber(arg(2)), tonumber(arg(3)), tonumber(arg(4))
local evicted = {}
local letters = redis.call('ZCARD', DEAD)
local bytes = tonumber(redis.call('HGET', META, 'dead_bytes') or 0)
for _ = 1, many do
  local oldest = redis.call('ZRANGE', DEAD, 0, 0, 'WITHSCORES')
  if not oldest[1] then break end
  local id, died = oldest[1], tonumber(oldest[2])
  if letters <= count_max and bytes <= bytes_max and died >= NOW - age_max then break end
  local j = redis.call('HMGET', job_key(id), 'kind', 'size', 'state')
  exhume(id, j[1], j[2])
  if j[3] == 'dead' then redis.call('UNLINK', job_key(id)) end
  letters, bytes = letters - 1, bytes - tonumber(j[2] or 0)
  evicted[#evicted + 1] = id
end
if #evicted > 0 then count('evicted', #evicted) end
return evicted
