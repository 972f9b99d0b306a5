-- Evicts the oldest dead letters beyond the caps.
-- KEYS     none of its own; job:<id> and dead:kind:<kind> are derived from the oldest letters
-- ARGV     1 most letters, 2 greatest age in ms, 3 most bytes, 4 most letters to evict now
-- Returns  letters evicted by age, by count, by bytes
-- Why      Letter, index and byte count change together. Every eviction is counted; those by age separately
--          (`outlived`), because they are expected.
-- Bound    as many as requested (Rust requests 100).
local count_max, age_max, bytes_max, limit = tonumber(arg(1)), tonumber(arg(2)), tonumber(arg(3)), tonumber(arg(4))
local evicted = { age = 0, count = 0, bytes = 0 }
local letters = redis.call('ZCARD', DEAD)
local bytes = tonumber(redis.call('HGET', META, 'dead_bytes') or 0)
for _ = 1, limit do
  local oldest = redis.call('ZRANGE', DEAD, 0, 0, 'WITHSCORES')
  if not oldest[1] then break end
  local id, died_ms = oldest[1], tonumber(oldest[2])
  local cap = died_ms < NOW_MS - age_max and 'age' or letters > count_max and 'count' or bytes > bytes_max and 'bytes'
  if not cap then break end
  local fields = redis.call('HMGET', job_key(id), 'kind', 'size', 'state')
  remove_dead_letter(id, fields[1], fields[2])
  if fields[3] == 'dead' then redis.call('UNLINK', job_key(id)) end
  letters, bytes = letters - 1, bytes - tonumber(fields[2] or 0)
  evicted[cap] = evicted[cap] + 1
end
if evicted.age > 0 then increment('outlived', evicted.age) end
if evicted.count + evicted.bytes > 0 then increment('evicted', evicted.count + evicted.bytes) end
return { int(evicted.age), int(evicted.count), int(evicted.bytes) }
