-- Reclaims expired leases, whose workers vanished: counts a crash, and requeues or buries the job. Says first
-- whether the caller is the worker that looks after the queue, and lifts the pauses whose time is over.
-- KEYS     1 dead:kind:crash_loop, 2 looker, 3 audit
-- ARGV     1 most leases, 2 this build, 3 worker ('' looks all the same), 4 life of its turn as looker in ms,
--          5 audit entries kept
-- Returns  another (another worker looks after the queue) | grace_period|reclaimed, number of leases, 1 when a
--          scheduled job is due, then per buried job: id, pair, reason (JSON)
-- Why      A first crash proves nothing. A job that was in a child goes to exclusive and runs with nothing else in
--          flight; a further crash there is its own fault. Its content becomes a suspect too, under whatever id it is
--          enqueued again. A job that was not in a child is one of hundreds that the worker fetched: it goes back to
--          its place twice, then runs in groups that get smaller, and only what vanishes again when it runs alone is
--          buried. So one that kills while it is fetched costs six workers, and none of the others.
--          No mass blame: when upkeep did not run (an outage, a clock jump, another server), it was heartbeats that
--          were missing, not workers; so for a grace period of one lease no job is blamed.
--          One worker at a time looks after the queue, or the cost of a fleet would grow with its square.
-- Bound    as many as requested (Rust requests 100); after the clock went back, shortens at most 500 leases; 20 pauses. At
--          maxmemory: 2 KiB for each job that is buried, and 1 KiB for each pause that is lifted.
local crashes_max, limit, build, worker = setting('crashes_max'), arg(1), arg(2), arg(3)
if worker ~= '' then
  local looker = redis.call('GET', key(2))
  if looker and looker ~= worker then return { 'another', '0', '0' } end
  -- The first write is one that Redis allows at maxmemory, and so is every later one.
  if redis.call('PEXPIRE', key(2), arg(4)) == 0 then redis.call('SET', key(2), worker, 'PX', arg(4)) end
end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local meta = redis.call('HMGET', META, 'tick_ms', 'run_id', 'grace_until_ms')
local last_tick_ms, grace_until = tonumber(meta[1] or NOW_MS), tonumber(meta[3] or 0)
local time_gap = NOW_MS < last_tick_ms or NOW_MS - last_tick_ms > LEASE_MS / 2 or (meta[2] and meta[2] ~= run_id)
if time_gap then grace_until = NOW_MS + LEASE_MS end

redis.call('HDEL', META, 'tick_ms') -- allowed at maxmemory, and so is every later write
redis.call('HSET', META, 'tick_ms', int(NOW_MS), 'run_id', run_id, 'grace_until_ms', int(grace_until))
-- A pause whose time is over ends here, in the name of who ordered it: without a looker no worker claims.
local paused = redis.pcall('HKEYS', PAUSED)
for _, name in ipairs(paused.err and {} or paused) do
  local pause = json_of(PAUSED, name)
  if (tonumber(pause.until_ms) or NOW_MS + 1) <= NOW_MS then
    redis.call('HDEL', PAUSED, name)
    redis.pcall('XADD', key(3), 'MAXLEN', '~', arg(5), '*', 'what', 'resume ' .. name, 'by', tostring(pause.by or ''),
      'why', 'its time was over')
  end
end
-- A wake-up that its worker did not live to use is replaced here.
if redis.call('EXISTS', READY, EXCLUSIVE) > 0 then wake() end
if time_gap and NOW_MS < last_tick_ms then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASE, NOW_MS + LEASE_MS, '+inf', 'LIMIT', 0, 500)) do
    redis.call('ZADD', LEASE, 'XX', NOW_MS + LEASE_MS, id)
  end
  -- Likewise, the exclusive lock and the pause after it must not last until the clock catches up.
  redis.call('PEXPIRE', EXCLUSIVE_LOCK, LEASE_MS)
  redis.call('HDEL', META, 'exclusive_rest_until_ms')
end
local scheduled = redis.pcall('ZRANGEBYSCORE', SCHEDULED, '-inf', NOW_MS, 'LIMIT', 0, 1)
local due = (scheduled.err or scheduled[1]) and '1' or '0' -- what is wrong with it shows when it is promoted
if NOW_MS < grace_until then return { 'grace_period', '0', due } end

local FIELDS = { 'payload', 'claimed_ms', 'token', 'entered', 'worker', 'unique', 'content', 'build', 'hosts', 'deliveries',
  'failures', 'crashes', 'fetch_crashes', 'postponements', 'releases', 'replays' }
local function read_job(id, job)
  local values, fields = redis.call('HMGET', job, unpack(FIELDS)), { id = id, job = job }
  for i, name in ipairs(FIELDS) do fields[name] = values[i] end
  return fields
end

local function crash_reason(fields)
  local counts = {}
  for _, name in ipairs({ 'deliveries', 'failures', 'crashes', 'fetch_crashes', 'postponements', 'releases', 'replays' }) do
    counts[name] = tonumber(fields[name] or 0)
  end
  local detail = fields.was_in_child
    and string.format('its worker vanished %d times with this job in a child, the last time with nothing else', fields.crashes)
    or string.format('its worker vanished %d times while it fetched this job, the last time with nothing else',
      fields.fetch_crashes)
  return cjson.encode({ kind = 'crash_loop', stage = 'queue', counts = counts, worker = fields.worker or '',
    build = fields.build or build, failure = { kind = 'crash_loop', detail = detail } }), detail
end

-- Counts the crash, and returns whether it buries the job. Only changes `fields`.
local function count_crash(fields)
  fields.was_in_child = fields.token and fields.token == fields.entered
  local counter = fields.was_in_child and 'crashes' or 'fetch_crashes'
  fields[counter] = tonumber(fields[counter] or 0) + 1
  if fields.was_in_child then return fields.crashes >= crashes_max end
  return fields.fetch_crashes > FETCH_CRASHES_ALONE -- before this time it ran alone
end

local function bury_crashed(fields, pair, unique_lock)
  local id, reason, sentence = fields.id, crash_reason(fields)
  log_delivery(fields.job, 'vanished', 'crash_loop')
  bury(id, fields.job, 'crash_loop', reason, string.match(fields.hosts or '', '^([^%s~]%S*)'), sentence, fields.build or build)
  release_unique_lock(unique_lock, id)
  local ended = cjson.encode({ id = id, pair = pair, state = 'dead', why = 'crash_loop' })
  local note = string.format('{"id":"%s","state":"dead","schema_version":1,"analysis_version":1,"dead":{"kind":"crash_loop"}}', id)
  store_result(id, pair, ended, note, false)
  emit_event('buried', id, pair, 'crash_loop')
  return reason
end

local expired = redis.call('ZRANGEBYSCORE', LEASE, '-inf', NOW_MS, 'LIMIT', 0, limit)
local replies, waiting_count = { 'reclaimed', int(#expired), due }, 0
for _, id in ipairs(expired) do
  local job = job_key(id)
  local fields = read_job(id, job)
  local buries = count_crash(fields)
  local handovers = plan_host_handover({ { id = id, hosts = fields.hosts } })
  local follow_up = buries and follow_up_of(id, job) or nil
  local unique_lock = PREFIX .. 'unique:' .. (fields.unique or '')
  local suspect = fields.was_in_child and fields.content and suspect_key(fields.content)
  local pair = pair_of(fields.payload)
  redis.call('EXISTS', unique_lock, suspect or unique_lock) -- reads derived keys before the first write
  read_result_keys(id, pair)
  redis.call('ZREM', LEASE, id)
  leave_hosts(handovers)
  if suspect then add_suspect(suspect, fields.build or build) end
  if fields.payload then
    redis.call('HDEL', job, 'token')
    if fields.was_in_child then redis.call('HSET', job, 'crashes', int(fields.crashes))
    else redis.call('HSET', job, 'fetch_crashes', int(fields.fetch_crashes)) end
    end_exclusive(id, fields.claimed_ms)
    increment('reclaimed')
    if buries then
      local reason = bury_crashed(fields, pair, unique_lock)
      admit_follow_up(follow_up, pair)
      replies[#replies + 1] = id
      replies[#replies + 1] = pair
      replies[#replies + 1] = reason
    else
      log_delivery(job, 'vanished', fields.was_in_child and 'in a child' or 'while fetching')
      make_waiting(id, job)
      recount_job(job, unique_lock)
      waiting_count = waiting_count + 1
      emit_event('reclaimed', id, pair, fields.worker or '')
    end
  end
end
if waiting_count > 0 then wake() end
return replies
