-- Claims what one alert event is to say, for one worker.
-- KEYS     1 alerts, 2 alerts:due, 3 alerts:claimed, 4 workers
-- ARGV     1 worker, 2 id for a new event, 3 window in ms, 4 lease of the claim in ms, 5 1 when the caller has left the
--          queue: then, if no worker is left, nothing waits for its window
-- Returns  letters that no accepted event stands for, then the fields and values of the claimed event, alternating;
--          nothing more without an event
-- Why      Of all workers one reports. What it claims stays in `alerts:claimed` until Sentry has accepted it: when the
--          worker dies the claim's lease ends, and another worker reports the same under the same event id, which
--          Sentry takes once. One event at a time: there are few, and two workers never report halves of one group.
--          Above STORM letters per window one event stands for all groups, and one more once there are fewer than half
--          as many for a whole window: by then a person needs the counts and not each kind by itself. Letters are pending
--          while their group or the claimed event has them: a group without a report for a week takes its count
--          along. A clock that goes back leaves times far ahead: none counts for longer than it would from now on.
-- Bound    at most 100 groups, one for each kind and stage; hosts as in one group. At maxmemory: 32 KiB.
local worker, event, window, lease = arg(1), arg(2), math.max(1, tonumber(arg(3))), tonumber(arg(4))
local state, due, claimed = key(1), key(2), key(3)
local STORM = 60 -- one a second, with a window of a minute
local LOOK_MOST = 100
local REMIND_AFTER = { ALERTS.remind_ms, 4 * ALERTS.remind_ms, 24 * ALERTS.remind_ms } -- since it began; then daily

-- When what is reported now is reported again, while it lasts.
local function remind_at(since)
  for _, after in ipairs(REMIND_AFTER) do
    if since + after > NOW_MS then return since + after end
  end
  return NOW_MS + REMIND_AFTER[#REMIND_AFTER]
end

local fields = redis.call('HMGET', state, 'letters', 'mark_ms', 'mark', 'storm_ms', 'storm_remind_ms')
local held = redis.call('HMGET', claimed, 'by', 'until_ms', 'event', 'count', 'set_ms')
local letters_pending = tonumber(held[4] or 0)
for _, group in ipairs(redis.call('ZRANGE', due, 0, LOOK_MOST - 1)) do
  if string.sub(group, 1, 7) == 'letter:' then
    letters_pending = letters_pending + tonumber(redis.call('HGET', ALERTS.group(group), 'count') or 0)
  end
end
local pending = { int(letters_pending) }
local function reply()
  local all = redis.call('HGETALL', claimed)
  table.insert(all, 1, pending[1])
  return all
end

if held[3] then
  local is_held = tonumber(held[2] or 0) > NOW_MS and tonumber(held[5] or 0) <= NOW_MS
  if held[1] ~= worker and is_held then return pending end
  redis.call('PEXPIRE', claimed, ALERTS.keep_ms) -- allowed at maxmemory, and so is every later write
  redis.call('HSET', claimed, 'by', worker, 'until_ms', int(NOW_MS + lease), 'set_ms', int(NOW_MS))
  return reply()
end

local leaves = arg(5) == '1' and redis.call('ZCARD', key(4)) == 0
local letters, mark_ms, mark = tonumber(fields[1] or 0), tonumber(fields[2] or 0), tonumber(fields[3] or 0)
local longest_ms = REMIND_AFTER[#REMIND_AFTER]
local storm_ms, storm_remind_ms = tonumber(fields[4] or nil), math.min(tonumber(fields[5] or 0), NOW_MS + longest_ms)
storm_ms = storm_ms and math.min(storm_ms, NOW_MS)
local passed = NOW_MS - mark_ms
local counted = passed >= window or passed < 0 -- the window in which the rate is counted has passed
local rate = (letters - mark) * window / math.max(passed, window)

local what
if storm_ms then
  what = (leaves or (counted and rate <= STORM / 2)) and 'storm_over'
    or NOW_MS >= storm_remind_ms and 'storm_lasts'
elseif rate > STORM and not leaves then
  what, storm_ms = 'storm', NOW_MS
end

-- Reads all before the first write.
local candidates = redis.call('ZRANGEBYSCORE', due, '-inf', (leaves or what) and '+inf' or NOW_MS, 'LIMIT', 0, LOOK_MOST)
local storm, later, gone, chosen = {}, {}, {}, nil
local farthest = NOW_MS + math.max(window, LEASE_MS)
for _, group in ipairs(redis.call('ZRANGEBYSCORE', due, '(' .. int(farthest), '+inf', 'LIMIT', 0, LOOK_MOST)) do
  later[group] = farthest
end
for _, group in ipairs(candidates) do
  local is_letter = string.sub(group, 1, 7) == 'letter:'
  redis.call('EXISTS', ALERTS.reported(group))
  if redis.call('EXISTS', ALERTS.group(group)) == 0 then
    gone[#gone + 1] = group
  elseif is_letter then
    if what then
      storm[group] = redis.call('HGETALL', ALERTS.group(group))
    elseif not storm_ms and not chosen then
      chosen = { what = 'letters', group = group }
    end
  elseif not what and not chosen then
    local remind_ms = tonumber(redis.call('HGET', ALERTS.group(group), 'remind_ms') or nil)
    remind_ms = remind_ms and math.min(remind_ms, NOW_MS + longest_ms)
    local seen = redis.call('ZCOUNT', PREFIX .. group, NOW_MS, '+inf') > 0
    local kind = not remind_ms and 'outage' or not seen and 'over' or NOW_MS >= remind_ms and 'outage_lasts'
    if kind then
      chosen = { what = kind, group = group }
    else
      later[group] = math.min(remind_ms, NOW_MS + LEASE_MS) -- by when no worker may see it any more
    end
  end
end

redis.call('ZREM', due, '') -- allowed at maxmemory, and so is every later write
for _, group in ipairs(gone) do redis.call('ZREM', due, group) end
for group, at in pairs(later) do redis.call('ZADD', due, 'XX', int(at), group) end
if counted or what == 'storm_over' then
  redis.call('HSET', state, 'mark_ms', int(NOW_MS), 'mark', int(letters))
end

if what then
  local counts, first_ms, last_ms, ids = { count = 0, hosts = 0, elsewhere = 0 }, math.huge, 0, {}
  local function add(field, count) counts[field] = (counts[field] or 0) + count end
  for group, flat in pairs(storm) do
    local letters_of = {}
    for i = 1, #flat, 2 do letters_of[flat[i]] = flat[i + 1] end
    local first, last = tonumber(letters_of.first_ms or NOW_MS), tonumber(letters_of.last_ms or NOW_MS)
    if first < first_ms then first_ms, ids.first = first, letters_of.first end
    if last >= last_ms then last_ms, ids.last = last, letters_of.last end
    add('count', letters_of.count or 0)
    add('kind:' .. string.sub(group, 8), letters_of.count or 0)
    add('elsewhere', letters_of.elsewhere or 0)
    for field, count in pairs(letters_of) do
      if string.sub(field, 1, 5) == 'host:' then
        if not counts[field] and counts.hosts >= ALERTS.hosts_most then
          field = 'elsewhere'
        elseif not counts[field] then
          add('hosts', 1)
        end
        add(field, count)
      end
    end
    redis.call('ZREM', due, group)
    redis.call('DEL', ALERTS.group(group))
  end
  for field, count in pairs(counts) do redis.call('HSET', claimed, field, int(count)) end
  redis.call('HSET', claimed, 'first', ids.first or '', 'last', ids.last or '', 'first_ms',
    int(math.min(first_ms, NOW_MS)), 'storm_ms', int(storm_ms))
  if what == 'storm_over' then
    redis.call('HDEL', state, 'storm_ms', 'storm_remind_ms')
  else
    redis.call('HSET', state, 'storm_ms', int(storm_ms), 'storm_remind_ms', int(remind_at(storm_ms)))
  end
elseif chosen and chosen.what == 'letters' then
  what = chosen.what
  redis.call('ZREM', due, chosen.group)
  redis.call('RENAME', ALERTS.group(chosen.group), claimed)
elseif chosen then
  what = chosen.what
  local outage = redis.call('HGETALL', ALERTS.group(chosen.group))
  redis.call('HSET', claimed, unpack(outage))
  if what == 'over' or redis.call('HEXISTS', ALERTS.group(chosen.group), 'once') == 1 then
    redis.call('ZREM', due, chosen.group)
    redis.call('DEL', ALERTS.group(chosen.group))
  else
    local remind_ms = remind_at(tonumber(redis.call('HGET', ALERTS.group(chosen.group), 'since_ms') or NOW_MS))
    redis.call('HSET', ALERTS.group(chosen.group), 'remind_ms', int(remind_ms))
    redis.call('ZADD', due, int(math.min(remind_ms, NOW_MS + math.min(window, LEASE_MS))), chosen.group)
  end
end
if not what then return pending end
if chosen then redis.call('SET', ALERTS.reported(chosen.group), int(window), 'PX', int(window)) end
redis.call('HSET', claimed, 'what', what, 'group', chosen and chosen.group or '', 'event', event, 'by', worker,
  'until_ms', int(NOW_MS + lease), 'now_ms', int(NOW_MS), 'set_ms', int(NOW_MS))
redis.call('PEXPIRE', claimed, ALERTS.keep_ms)
return reply()
