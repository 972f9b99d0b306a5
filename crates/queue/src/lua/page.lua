-- Reads the next page of an index, behind the entry that was read last.
-- KEYS     1 the index
-- ARGV     1 score and 2 id that were read last ('' and '': none), 3 lowest and 4 highest score, 5 most entries,
--          6 1 from the highest down
-- Returns  ids and scores, alternating
-- Why      By rank a reader would skip as many entries as leave the index before its place. Entries of one score are
--          ordered by their bytes; `<` would order them by the locale of the server.
-- Bound    as many entries as requested (Rust requests at most 100), and a binary search among those of one score.
local index, score, id, down = key(1), arg(1), arg(2), arg(6) == '1'
local low, high, skip = arg(3), arg(4), 0

local function is_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

if score ~= '' then
  local first = redis.call('ZCOUNT', index, '-inf', '(' .. score)
  local from, to = first, first + redis.call('ZCOUNT', index, score, score)
  local ends = to
  while from < to do -- to the first that is not before `id`
    local middle = math.floor((from + to) / 2)
    if is_before(redis.call('ZRANGE', index, middle, middle)[1], id) then from = middle + 1 else to = middle end
  end
  local is_there = from < ends and redis.call('ZRANGE', index, from, from)[1] == id
  if down then
    high, skip = score, ends - from
  else
    low, skip = score, from - first + (is_there and 1 or 0)
  end
end
if down then return redis.call('ZREVRANGEBYSCORE', index, high, low, 'WITHSCORES', 'LIMIT', skip, arg(5)) end
return redis.call('ZRANGEBYSCORE', index, low, high, 'WITHSCORES', 'LIMIT', skip, arg(5))
