-- Takes over leases that ran out, because their worker vanished.
-- KEYS     1 dead:kind:crash_loop
-- ARGV     1 crashes that bury, 2 how many at most, 3 our build
-- Returns  grace_until|reclaimed, how many leases, then per buried job: id, pair, reason (JSON)
-- Why      A first crash proves nothing: all that was in that worker's in_flight goes to `exclusive` and runs exclusively. Only a
--          crash more, exclusively, is the job's own. What had gone in is a suspect by its content too, under whatever id
--          it comes again. And no mass blame: where nobody kept time (an outage, a jump of the
--          clock, another server), the workers were not gone, their heartbeats were; so for one lease nobody is blamed.
-- Bound    as many as asked for (Rust asks for 100); at most 500 leases are brought back after the clock went back.
local crashes_max, many, build = tonumber(arg(1)), arg(2), arg(3)
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local m = redis.call('HMGET', META, 'tick_ms', 'run_id', 'grace_until_ms')
local tick, grace_until = tonumber(m[1] or NOW), tonumber(m[3] or 0)
local trouble = NOW < tick or NOW - tick > LEASE_MS / 2 or (m[2] and m[2] ~= run_id)
if trouble then grace_until = NOW + LEASE_MS end

redis.call('HDEL', META, 'tick_ms') -- a write that is allowed at maxmemory, so that the next one is too
redis.call('HSET', META, 'tick_ms', int(NOW), 'run_id', run_id, 'grace_until_ms', int(grace_until))
if trouble and NOW < tick then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASE, NOW + LEASE_MS, '+inf', 'LIMIT', 0, 500)) do
    redis.call('ZADD', LEASE, 'XX', NOW + LEASE_MS, id)
  end
  -- Nor does a exclusive, or the rest after one, last until the clock is where it was.
  redis.call('PEXPIRE', EXCLUSIVE_LOCK, LEASE_MS)
  redis.call('HDEL', META, 'exclusive_rest_until_ms')
end
if NOW < grace_until then return { 'grace_period', '0' } end

local function crash_reason(j, crashes)
  local counts = { deliveries = tonumber(j[3] or 0), failures = tonumber(j[4] or 0), crashes = crashes,
    postponements = tonumber(j[5] or 0), releases = tonumber(j[6] or 0), replays = tonumber(j[7] or 0) }
  local detail = string.format('its worker vanished %d times with this job in hand, the last time with nothing else',
    crashes)
  return cjson.encode({ kind = 'crash_loop', stage = 'queue', counts = counts, worker = j[8] or '', build = j[12] or build,
    failure = { kind = 'crash_loop', detail = detail } })
end

local expired = redis.call('ZRANGEBYSCORE', LEASE, '-inf', NOW, 'LIMIT', 0, many)
local answers, exclusive = { 'reclaimed', int(#expired) }, 0
for _, id in ipairs(expired) do
  local job = job_key(id)
  local j = redis.call('HMGET', job, 'payload', 'claimed_ms', 'deliveries', 'failures', 'postponements', 'releases',
    'replays', 'worker', 'unique', 'crashes', 'content', 'build', 'hosts', 'token', 'started')
  local calls = plan_host_handover({ { id = id, hosts = j[13] } })
  local crashes = tonumber(j[10] or 0) + 1
  local next = crashes >= crashes_max and follow_up_of(id, job) or nil
  local lock = PREFIX .. 'unique:' .. (j[9] or '')
  local suspect = j[11] and j[14] == j[15] and suspect_key(j[11])
  redis.call('EXISTS', lock, suspect or lock) -- derived keys are touched before the first write
  redis.call('ZREM', LEASE, id)
  leave_hosts(calls)
  if suspect then redis.call('SET', suspect, j[12] or build, 'PX', SUSPECT_MS) end
  if j[1] then
    redis.call('HDEL', job, 'token')
    redis.call('HSET', job, 'crashes', int(crashes))
    end_exclusive(id, j[2])
    count('reclaimed')
    if crashes >= crashes_max then
      local reason = crash_reason(j, crashes)
      bury(id, job, 'crash_loop', reason, #j[1] + #reason)
      unlock(lock, id)
      local pair = pair_of(j[1])
      event('buried', id, pair, 'crash_loop')
      admit_follow_up(next, pair)
      answers[#answers + 1] = id
      answers[#answers + 1] = pair
      answers[#answers + 1] = reason
    else
      make_waiting(id, job)
      exclusive = exclusive + 1
      event('reclaimed', id, pair_of(j[1]), j[8] or '')
    end
  end
end
if exclusive > 0 then wake() end
return answers
