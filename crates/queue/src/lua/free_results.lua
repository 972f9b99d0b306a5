-- Deletes the oldest results.
-- KEYS     none of its own; report:<pair> and ended:<id> are derived from the oldest
-- ARGV     1 most results, 2 only those stored before this time in ms ('' any)
-- Returns  results deleted, bytes freed, 1 when there are more
-- Why      Report, index and byte count change together.
-- Bound    as many as requested (Rust requests 100).
local before = arg(2) ~= '' and '(' .. arg(2) or '+inf'
local ids, freed = redis.call('ZRANGEBYSCORE', RESULTS, '-inf', before, 'LIMIT', 0, arg(1)), 0
for _, id in ipairs(ids) do freed = freed + forget_result(id) end
if ids[1] then
  increment('reports_freed', #ids)
  wake() -- claims may have waited for room
end
return { int(#ids), int(freed), redis.call('ZRANGEBYSCORE', RESULTS, '-inf', before, 'LIMIT', 0, 1)[1] and '1' or '0' }
