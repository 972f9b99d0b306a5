-- Claims jobs for one worker: each gets its own lease, all share one token.
-- KEYS     1 claim:<worker>; job:<id> is derived from the ids at the head of ready or exclusive
-- ARGV     1 worker, 2 token, 3 this worker's deliveries in flight, 4 most jobs to claim
-- Returns  paused | empty | full (the lease limit is reached) | exclusive (suspects wait until this worker
--          has nothing in flight, or are in flight here) | reports_full (their budget is used up, and they are
--          the only copy) | no_memory (at maxmemory, which others fill) | jobs,
--          now_ms, 1 when exclusive, then per job: id, then the fields in FIELDS ('' where absent)
-- Why      Read, check, then move, all in one step: a job must never be in neither set. Deliveries are
--          counted here, so that a worker that dies of a job has already counted it. Repeating the token of the
--          worker's last claim returns the same jobs and claims no others, so a lost reply loses none, and a call that
--          arrives after its own repetition does nothing. Near maxmemory claims go on, because every
--          settle then frees more than it stores; they stop only for what no claim can change.
-- Bound    as many as requested (Rust requests at most 100; a lost reply is repeated in full); index entries
--          without a job are removed in at most 20 rounds; a group of suspects is chosen among the first 32. At
--          maxmemory: 1 KiB for each job claimed, until it is settled, and the ids of a worker's last claim, for a
--          lease.
local worker, token, in_flight = arg(1), arg(2), tonumber(arg(3))
local max_jobs, leases_max = tonumber(arg(4)), setting('in_flight_max')
local FIELDS = { 'payload', 'deliveries', 'failures', 'ambiguous_exits', 'crashes', 'fetch_crashes', 'postponements', 'postponed_ms', 'releases',
  'replays', 'unique', 'enqueued_ms', 'expires_ms', 'cancel', 'granted_wall_ms', 'granted_heap_bytes' }

local function jobs_reply(ids, jobs, exclusive)
  local reply = { 'jobs', int(NOW_MS), exclusive and '1' or '0' }
  for i, id in ipairs(ids) do
    reply[#reply + 1] = id
    for field = 1, #FIELDS do reply[#reply + 1] = jobs[i][field] or '' end
  end
  return reply
end

local function lease_jobs(ids, jobs, from, exclusive)
  redis.call('ZREM', from, unpack(ids))
  redis.pcall('ZREM', WAITING, unpack(ids))
  redis.pcall('HSET', META, 'claimed_ms', int(NOW_MS))
  set_leases(ids)
  for i, id in ipairs(ids) do
    local deliveries = int(tonumber(jobs[i][2] or 0) + 1)
    redis.call('HSET', job_key(id), 'state', 'in_flight', 'token', token, 'worker', worker, 'claimed_ms', int(NOW_MS),
      'deliveries', deliveries)
    jobs[i][2] = deliveries
  end
  local claimed = table.concat(ids, '|')
  redis.call('SET', key(1), token .. '|' .. claimed, 'PX', LEASE_MS)
  if exclusive then redis.call('SET', EXCLUSIVE_LOCK, worker .. '|' .. claimed, 'PX', LEASE_MS) end
  return jobs_reply(ids, jobs, exclusive)
end

-- The first ids of `zset` that still have a job, with their fields. This also reads each derived key before
-- the first write, as the scripts require.
local function first_jobs(zset, limit)
  for _ = 1, 20 do
    local ids, jobs, leftovers = {}, {}, {}
    for _, id in ipairs(redis.call('ZRANGE', zset, 0, limit - 1)) do
      local fields = redis.call('HMGET', job_key(id), unpack(FIELDS))
      if fields[1] then
        ids[#ids + 1], jobs[#jobs + 1] = id, fields
      else
        leftovers[#leftovers + 1] = id
      end
    end
    if leftovers[1] then
      redis.call('ZREM', zset, unpack(leftovers))
      redis.pcall('ZREM', WAITING, unpack(leftovers))
    end
    if ids[1] or not leftovers[1] then return ids, jobs end
  end
  return {}, {}
end

-- The first suspects that may run together: as many of the kind of the first one as `group_max` and the worker allow.
local function first_group()
  local ids, jobs, most = {}, {}, nil
  local first_ids, first_fields = first_jobs(EXCLUSIVE, 32) -- ignores the score: the clock may have gone back
  for i, id in ipairs(first_ids) do
    local max = group_max(unpack(redis.call('HMGET', job_key(id), 'crashes', 'releases', 'suspect', 'fetch_crashes'))) or 1
    most = most or max
    if max == most and #ids < math.min(most, max_jobs) then
      ids[#ids + 1], jobs[#jobs + 1] = id, first_fields[i]
    end
  end
  return ids, jobs
end

-- Claims a group of suspects. One worker at a time runs suspects, one group after the other, with nothing else in
-- flight. nil: claim from ready.
local function claim_exclusive()
  local lock_holder = redis.call('GET', EXCLUSIVE_LOCK)
  if lock_holder and string.sub(lock_holder, 1, #worker + 1) == worker .. '|' then return { 'exclusive' } end
  if lock_holder and lock_holder ~= worker then return nil end
  if not lock_holder and NOW_MS < tonumber(redis.call('HGET', META, 'exclusive_rest_until_ms') or 0) then return nil end
  if in_flight == 0 then
    local ids, jobs = first_group()
    return ids[1] and lease_jobs(ids, jobs, EXCLUSIVE, true)
  end
  if not first_jobs(EXCLUSIVE, 1)[1] then return nil end
  redis.call('DEL', EXCLUSIVE_LOCK) -- allowed at maxmemory, and so is every later write
  redis.call('SET', EXCLUSIVE_LOCK, worker, 'PX', LEASE_MS)
  return { 'exclusive' }
end

-- The jobs that this token has claimed and still holds, where its reply was lost; renews their leases.
local function repeat_claim()
  local claimed = redis.call('GET', key(1))
  if not claimed or string.sub(claimed, 1, #token + 1) ~= token .. '|' then return nil end
  local ids, jobs, lock = {}, {}, redis.call('GET', EXCLUSIVE_LOCK)
  for id in string.gmatch(string.sub(claimed, #token + 2), '[^|]+') do
    if redis.call('HGET', job_key(id), 'token') == token then
      ids[#ids + 1], jobs[#jobs + 1] = id, redis.call('HMGET', job_key(id), unpack(FIELDS))
    end
  end
  if not ids[1] then return nil end
  redis.call('PEXPIRE', key(1), LEASE_MS) -- allowed at maxmemory, and so is every later write
  set_leases(ids)
  return jobs_reply(ids, jobs, runs_exclusively(lock, ids[1]))
end

-- Why nothing may be claimed for want of memory, or nil.
local function out_of_memory()
  local full, waits = is_full(), text_setting('reports_when_full') == 'wait'
  if not full and not waits then return nil end -- most claims: INFO costs more than what follows
  local memory = read_memory()
  local meta = redis.call('HMGET', META, 'reports_bytes', 'jobs_bytes', 'dead_bytes', 'done_bytes', 'suspects_bytes')
  if waits and tonumber(meta[1] or 0) >= byte_cap('reports_max_bytes', memory, REPORTS_SHARE) then
    return 'reports_full'
  end
  if not memory or not full then return nil end
  local ours = 0
  for i = 1, 5 do ours = ours + tonumber(meta[i] or 0) end
  for _, name in ipairs({ INBOX, READY, SCHEDULED, LEASE, EXCLUSIVE, WAITING, DEAD, RESULTS, EVENTS }) do
    ours = ours + (redis.call('MEMORY', 'USAGE', name) or 0)
  end
  return memory.used - ours >= memory.max and 'no_memory' or nil
end

local result = repeat_claim()
if result then return result end
if redis.call('EXISTS', PAUSED) == 1 then return { 'paused' } end
if leases_max > 0 then
  max_jobs = math.min(max_jobs, leases_max - redis.call('ZCARD', LEASE))
  if max_jobs <= 0 then return { 'full' } end
end
if redis.call('EXISTS', READY, EXCLUSIVE, EXCLUSIVE_LOCK) == 0 then return { 'empty' } end
local no_room = out_of_memory()
if no_room then return { no_room } end
result = claim_exclusive()
if result then return result end
local ids, jobs = first_jobs(READY, max_jobs)
if not ids[1] then return { 'empty' } end
result = lease_jobs(ids, jobs, READY, false)
if redis.call('ZCARD', READY) > 0 then wake() end
return result
