-- Evicts what is beyond its cap, oldest first: dead letters, results, `done` segments, suspects, failed hosts.
-- KEYS     none of its own; the keys to evict are derived from their indexes
-- ARGV     1 most of each to evict now, 2 kinds of dead letters, separated by spaces, 3 life of a worker's entry in ms
-- Returns  dead letters evicted by age, by count, by bytes; results evicted by age, by bytes; done marks
--          forgotten by age, by count; suspects by age, by count; 1 when there may be more to evict; jobs and
--          letters, also those in the trash, as counted, and as they stand in the indexes
-- Why      What is evicted, its index and its count change together, and every eviction is counted; those by
--          age separately, because they are expected. Beyond the caps on all letters the kind with the most
--          goes first, so one kind cannot evict the others. Reports are evicted only where they are copies
--          (reports_when_full = evict), except by age.
-- Bound    as many as requested of each (Rust requests 100), and one segment of `done`.
local limit, memory = tonumber(arg(1)), read_memory()
local evicted = { age = 0, count = 0, bytes = 0, result_age = 0, result_bytes = 0, done_age = 0, done_count = 0,
  suspect_age = 0, suspect_count = 0 }

local function meta(field) return tonumber(redis.call('HGET', META, field) or 0) end

-- The kind that has the most of what is scarce, and its share must go.
local function largest_kind(by_bytes)
  local largest, most = nil, 0
  for kind in string.gmatch(arg(2), '%S+') do
    local size = redis.call('ZCARD', kind_key(kind))
    if size > 0 and by_bytes then size = math.max(size, meta('dead_bytes:' .. kind)) end
    if size > most then largest, most = kind, size end
  end
  return largest
end

local function evict_letter(id)
  local fields = redis.call('HMGET', job_key(id), 'kind', 'size', 'state')
  remove_dead_letter(id, fields[1], fields[2])
  if fields[3] == 'dead' then redis.call('UNLINK', job_key(id)) end
end

-- The trash gives way first: to its age, to the budget of the dead letters, and to a Redis that fills up.
local TRASH_MS = 86400000
local over_budget = meta('trash_bytes') + meta('dead_bytes') - byte_cap('dead_max_bytes', memory, DEAD_SHARE)
local short_of_memory = memory and memory.used > memory.max * EVICT_BELOW
for _ = 1, limit do
  local oldest = redis.call('ZRANGE', TRASH, 0, 0, 'WITHSCORES')
  if not oldest[1] or not (tonumber(oldest[2]) < NOW_MS - TRASH_MS or over_budget > 0 or short_of_memory) then break end
  over_budget = over_budget - tonumber(redis.call('HGET', job_key(oldest[1]), 'size') or 0)
  local is_trash = redis.call('HGET', job_key(oldest[1]), 'state') == 'trash'
  remove_from_trash(oldest[1])
  if is_trash then redis.call('UNLINK', job_key(oldest[1])) end
end
-- Ends any drift, unless letters of the trash have lost their index: the counters find them.
local trash = redis.call('ZCARD', TRASH)
if trash == 0 and meta('trash_count') <= 0 then redis.call('HDEL', META, 'trash_bytes', 'trash_count') end
-- Groups of which nothing is known any more.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', GROUPS.index, '-inf', NOW_MS - GROUPS.kept_ms, 'LIMIT', 0, limit)) do
  redis.call('ZREM', GROUPS.index, name)
  account('groups', 0, -bytes_of(GROUPS.key(name)))
  redis.call('UNLINK', GROUPS.key(name))
end

local count_max, age_max = setting('dead_max_count'), setting('dead_max_age')
local bytes_max = byte_cap('dead_max_bytes', memory, DEAD_SHARE)
for _ = 1, limit do
  local oldest = redis.call('ZRANGE', DEAD, 0, 0, 'WITHSCORES')
  if not oldest[1] then break end
  local id, cap = oldest[1], nil
  if tonumber(oldest[2]) < NOW_MS - age_max then
    cap = 'age'
  elseif redis.call('ZCARD', DEAD) > count_max then
    cap = 'count'
  elseif meta('dead_bytes') > bytes_max then
    cap = 'bytes'
  end
  if not cap then break end
  local kind = cap ~= 'age' and largest_kind(cap == 'bytes')
  if kind then id = redis.call('ZRANGE', kind_key(kind), 0, 0)[1] end
  evict_letter(id)
  evicted[cap] = evicted[cap] + 1
end

local evicts = text_setting('reports_when_full') == 'evict'
local budget = byte_cap('reports_max_bytes', memory, REPORTS_SHARE)
local excess = math.max(0, meta('reports_bytes') - budget)
if memory and memory.used > memory.max * EVICT_ABOVE then
  excess = math.max(excess, memory.used - memory.max * EVICT_BELOW)
end
for _ = 1, limit do
  local oldest = redis.call('ZRANGE', RESULTS, 0, 0, 'WITHSCORES')
  if not oldest[1] then break end
  local by_age = tonumber(oldest[2]) < NOW_MS - setting('report_ttl')
  if not by_age and not (evicts and excess > 0) then break end
  excess = excess - forget_result(oldest[1])
  local cap = by_age and 'result_age' or 'result_bytes'
  evicted[cap] = evicted[cap] + 1
end
if redis.call('ZCARD', RESULTS) == 0 then redis.call('HDEL', META, 'reports_bytes') end -- ends any drift

local oldest = redis.call('ZRANGE', SEGMENTS, 0, 1, 'WITHSCORES')
local marks = meta('done_count')
-- A segment is as old as its newest mark, which is younger than the segment after it.
local outlived = oldest[4] and tonumber(oldest[4]) < NOW_MS - setting('done_ttl')
if outlived or (oldest[3] and marks > setting('done_max_count')) then
  local freed, forgotten, keys = 0, 0, {}
  for shard = 0, SEGMENT_SHARDS - 1 do
    keys[#keys + 1] = PREFIX .. 'done:' .. oldest[1] .. ':' .. shard
    freed = freed + bytes_of(keys[#keys])
    forgotten = forgotten + redis.call('HLEN', keys[#keys])
  end
  redis.call('ZREM', SEGMENTS, oldest[1])
  redis.call('UNLINK', unpack(keys))
  account('done', -forgotten, -freed)
  evicted[outlived and 'done_age' or 'done_count'] = forgotten
end

local outlived_suspects = redis.call('ZRANGEBYSCORE', SUSPECTS, '-inf', NOW_MS - UNIQUE_MS, 'LIMIT', 0, limit)
for _, suspect in ipairs(outlived_suspects) do remove_suspect(suspect) end
evicted.suspect_age = #outlived_suspects
local beyond = math.min(redis.call('ZCARD', SUSPECTS) - setting('suspects_max_count'), limit)
for _, suspect in ipairs(beyond > 0 and redis.call('ZRANGE', SUSPECTS, 0, beyond - 1) or {}) do
  remove_suspect(suspect)
  evicted.suspect_count = evicted.suspect_count + 1
end

forget_failed_hosts(limit)
redis.pcall('ZREMRANGEBYSCORE', PREFIX .. 'workers', '-inf', NOW_MS - tonumber(arg(3)))
if evicted.age > 0 then increment('outlived', evicted.age) end
if evicted.count + evicted.bytes > 0 then increment('evicted', evicted.count + evicted.bytes) end
if evicted.result_bytes > 0 then increment('reports_evicted', evicted.result_bytes) end
if evicted.done_count > 0 then increment('done_forgotten', evicted.done_count) end
if evicted.suspect_count > 0 then increment('suspects_forgotten', evicted.suspect_count) end
local live = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', LEASE) + redis.call('ZCARD', EXCLUSIVE)
local dead = redis.call('ZCARD', DEAD)
-- Counted anew where nobody has counted: the first time, and once a search for orphans has ended.
for field, count in pairs({ jobs_count = live, dead_count = dead, trash_count = trash }) do
  if not redis.call('HGET', META, field) then
    redis.call('HDEL', META, field) -- allowed at maxmemory, and so is every later write
    redis.call('HSET', META, field, count)
  end
end
local counted = meta('jobs_count') + meta('dead_count') + meta('trash_count')
if live == 0 and meta('jobs_count') == 0 then redis.call('HDEL', META, 'jobs_bytes') end -- ends any drift
local letters, results = evicted.age + evicted.count + evicted.bytes, evicted.result_age + evicted.result_bytes
return { int(evicted.age), int(evicted.count), int(evicted.bytes), int(evicted.result_age), int(evicted.result_bytes),
  int(evicted.done_age), int(evicted.done_count), int(evicted.suspect_age), int(evicted.suspect_count),
  (letters >= limit or results >= limit or evicted.done_age + evicted.done_count > 0) and '1' or '0',
  int(counted), int(live + dead + trash) }
