-- Hands jobs to one worker, each under a lease, all of them under one token.
-- KEYS     none of its own; job:<id> follows from what stands first in the order
-- ARGV     1 worker, 2 token, 3 deliveries this worker has in hand, 4 1 when a claim with this token went unanswered,
--          5 how many at most, 6 most leases at a time, all workers together (0: any number)
-- Returns  paused | empty | full (so many are leased) |
--          exclusive (a suspect waits until this worker's in_flight are empty, or runs in them) |
--          jobs, now_ms, 1 when exclusively, then per job: id, and the fields in FIELDS ('' where absent)
-- Why      Peek, check, then take: a job must never be in neither place. The delivery is counted here, so that a worker
--          that dies of it has been counted. The same token asked twice gets the same jobs, so a lost answer loses none.
-- Bound    as many as asked for (Rust asks for at most 100; a lost answer is given again whole); leftovers without a
--          job are cleared away in at most 20 rounds; a lost answer is looked for among the newest 500 leases.
local worker, token, in_flight, unanswered = arg(1), arg(2), tonumber(arg(3)), arg(4) == '1'
local most, leases_max = tonumber(arg(5)), tonumber(arg(6))
local FIELDS = { 'payload', 'deliveries', 'failures', 'ambiguous_exits', 'crashes', 'postponements', 'postponed_ms', 'releases',
  'replays', 'unique', 'enqueued_ms', 'expires_ms', 'cancel', 'granted_wall_ms', 'granted_heap_bytes' }

local function answer(ids, jobs, exclusively)
  local reply = { 'jobs', int(NOW), exclusively and '1' or '0' }
  for i, id in ipairs(ids) do
    reply[#reply + 1] = id
    for field = 1, #FIELDS do reply[#reply + 1] = jobs[i][field] or '' end
  end
  return reply
end

local function lease(ids)
  local leases = {}
  for _, id in ipairs(ids) do
    leases[#leases + 1] = NOW + LEASE_MS
    leases[#leases + 1] = id
  end
  redis.call('ZADD', LEASE, unpack(leases))
end

local function lease_jobs(ids, jobs, from, exclusively)
  redis.call('ZREM', from, unpack(ids))
  lease(ids)
  for i, id in ipairs(ids) do
    local deliveries = int(tonumber(jobs[i][2] or 0) + 1)
    redis.call('HSET', job_key(id), 'state', 'in_flight', 'token', token, 'worker', worker, 'claimed_ms', int(NOW),
      'deliveries', deliveries)
    jobs[i][2] = deliveries
  end
  if exclusively then redis.call('SET', EXCLUSIVE_LOCK, worker .. '|' .. ids[1], 'PX', LEASE_MS) end
  return answer(ids, jobs, exclusively)
end

-- Those that stand first, with their fields; that look is also how each derived key is touched before the first write.
local function peek(zset, many)
  for _ = 1, 20 do
    local ids, jobs, leftovers = {}, {}, {}
    for _, id in ipairs(redis.call('ZRANGE', zset, 0, many - 1)) do
      local fields = redis.call('HMGET', job_key(id), unpack(FIELDS))
      if fields[1] then
        ids[#ids + 1], jobs[#jobs + 1] = id, fields
      else
        leftovers[#leftovers + 1] = id
      end
    end
    if leftovers[1] then redis.call('ZREM', zset, unpack(leftovers)) end
    if ids[1] or not leftovers[1] then return ids, jobs end
  end
  return {}, {}
end

-- One worker at a time runs suspects, one at a time, with nothing beside them.
local function claim_exclusive()
  local exclusive = redis.call('GET', EXCLUSIVE_LOCK)
  if exclusive and string.sub(exclusive, 1, #worker + 1) == worker .. '|' then return { 'exclusive' } end
  if exclusive and exclusive ~= worker then return nil end
  local ids, jobs = peek(EXCLUSIVE, 1) -- whatever their time says: the clock may have gone back
  if not ids[1] then return nil end
  if not exclusive and NOW < tonumber(redis.call('HGET', META, 'exclusive_rest_until_ms') or 0) then return nil end
  if in_flight == 0 then return lease_jobs(ids, jobs, EXCLUSIVE, true) end
  redis.call('DEL', EXCLUSIVE_LOCK) -- a write that is allowed at maxmemory, so that the next one is too
  redis.call('SET', EXCLUSIVE_LOCK, worker, 'PX', LEASE_MS)
  return { 'exclusive' }
end

-- What was handed out under this token, and never arrived.
local function repeat_claim()
  local ids, jobs = {}, {}
  for _, id in ipairs(redis.call('ZREVRANGE', LEASE, 0, 499)) do
    if redis.call('HGET', job_key(id), 'token') == token then
      ids[#ids + 1], jobs[#jobs + 1] = id, redis.call('HMGET', job_key(id), unpack(FIELDS))
    end
  end
  if not ids[1] then return nil end
  lease(ids)
  return answer(ids, jobs, redis.call('GET', EXCLUSIVE_LOCK) == worker .. '|' .. ids[1])
end

local given = unanswered and repeat_claim()
if given then return given end
if redis.call('EXISTS', PAUSED) == 1 then return { 'paused' } end
if leases_max > 0 then
  most = math.min(most, leases_max - redis.call('ZCARD', LEASE))
  if most <= 0 then return { 'full' } end
end
given = claim_exclusive()
if given then return given end
local ids, jobs = peek(READY, most)
if not ids[1] then return { 'empty' } end
given = lease_jobs(ids, jobs, READY, false)
if redis.call('ZCARD', READY) > 0 then wake() end
return given
