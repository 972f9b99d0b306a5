-- Prelude shared by all scripts; scripts.rs puts this file in front of each of them.
-- KEYS     1-13: every fixed key of the queue, in the order below (`fixed` in keys.rs). A script's own keys
--          follow.
-- ARGV     1 key prefix, 2 events kept, 3 lease in ms, 4 releases that make a job a suspect, 5 most jobs at
--          one host (0: unlimited). A script's own arguments follow.
-- Returns  nothing: this file only defines locals. Scripts return numbers as strings, so every reply is one
--          flat list.
-- Why      Redis does not roll a script back: a script reads and checks everything before its first write.
-- Bound    each function touches one job.
local INBOX, READY, SCHEDULED, LEASE, EXCLUSIVE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local EXCLUSIVE_LOCK, DEAD, PAUSED, WAKE = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local EVENTS, STATS, META, SEQ = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local PREFIX, EVENTS_MAX = ARGV[1], ARGV[2]
local LEASE_MS, RELEASES_EXCLUSIVE, HOST_IN_FLIGHT_MAX = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local UNIQUE_MS, SUSPECT_MS, STATS_SECONDS = 30 * 86400000, 30 * 86400000, 90 * 86400

local function key(i) return KEYS[13 + i] end
local function arg(i) return ARGV[5 + i] end
local function int(n) return string.format('%.0f', n) end
local function job_key(id) return PREFIX .. 'job:' .. id end
local function kind_key(kind) return PREFIX .. 'dead:kind:' .. kind end
local function suspect_key(content) return PREFIX .. 'suspect:' .. content end
local function host_permits_key(host) return PREFIX .. 'host:' .. host end
local function host_waiters_key(host) return PREFIX .. 'host_waiters:' .. host end

-- Every deadline uses the server's clock: one clock for all workers.
local time = redis.call('TIME')
local NOW_MS = time[1] * 1000 + math.floor(time[2] / 1000)

-- Counters and events are hints: pcall, so that their failure never fails the script.
local function increment(field, by)
  by = by or 1
  if redis.pcall('HINCRBY', STATS, field, by) == by then redis.pcall('EXPIRE', STATS, STATS_SECONDS) end
end

local function emit_event(type, id, pair, why)
  local from, to = string.match(pair or '', '^(.-)%.%.(.*)$')
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', EVENTS_MAX, '*',
    'type', type, 'id', id, 'from', from or '', 'to', to or '', 'why', why or '')
end

-- Pushes at most one element: a hint that something can be claimed, never the job itself.
local function wake()
  if redis.call('LLEN', WAKE) == 0 then redis.call('LPUSH', WAKE, '1') end
end

-- `<from>..<to>` from a stored payload, for events whose caller has no pair; '' when unreadable.
local function pair_of(payload)
  local ok, job = pcall(cjson.decode, payload or '')
  if not ok or type(job) ~= 'table' then return '' end
  local function uuid(ref)
    if type(ref) == 'table' then ref = ref.uuid end
    return type(ref) == 'string' and ref or ''
  end
  return uuid(job.from) .. '..' .. uuid(job.to)
end

-- The job id that holds a lock, or nil. A lock counts only while its job is live.
local LIVE = { ready = true, scheduled = true, in_flight = true, exclusive = true }
local function live_holder(unique)
  local holder = redis.call('GET', unique)
  if not holder then return nil end
  local state = redis.call('HGET', job_key(holder), 'state')
  return state and LIVE[state] and holder or nil
end

-- Releases a job's lock when the job leaves the live states, unless another job holds it by now.
local function release_unique_lock(unique, id)
  if redis.call('GET', unique) == id then redis.call('DEL', unique) end
end

-- Creates a job in ready or scheduled and takes its lock. The caller has checked that id and lock are free.
local function insert_job(id, unique, payload, score, expires, run_at)
  local later = run_at ~= '' and tonumber(run_at) > NOW_MS
  redis.call('HSET', job_key(id), 'payload', payload, 'state', later and 'scheduled' or 'ready', 'score', int(score),
    'enqueued_ms', int(NOW_MS), 'unique', string.sub(unique, -64))
  if expires ~= '' then redis.call('HSET', job_key(id), 'expires_ms', expires) end
  if later then
    redis.call('ZADD', SCHEDULED, run_at, id)
    redis.call('SET', unique, id, 'PX', int(UNIQUE_MS + run_at - NOW_MS))
  else
    redis.call('ZADD', READY, score, id)
    redis.call('SET', unique, id, 'PX', UNIQUE_MS)
  end
  increment('admitted')
end

-- The job to admit once this one has ended, or nil. Only reads: call it before the first write.
local function follow_up_of(id, job)
  local fields = redis.call('HMGET', job, 'next', 'next_unique', 'score', 'expires_ms')
  if not fields[1] then return nil end
  local follow_up = { id = id .. '.earliest', payload = fields[1], unique = PREFIX .. 'unique:' .. fields[2],
    score = fields[3] or 0, expires = fields[4] or '' }
  follow_up.refused_as = redis.call('EXISTS', job_key(follow_up.id)) == 1 and 'same_id'
  live_holder(follow_up.unique) -- reads every key that `admit_follow_up` uses before the first write
  return follow_up
end

-- Admits a follow-up job. It runs after the first write and ignores backlog_max: neither a full Redis nor a
-- full backlog may lose it, and it replaces a job that has just left. It inherits that job's score. The lock
-- is checked again here, because another job of the same batch may have had the same follow-up.
local function admit_follow_up(follow_up, pair)
  if not follow_up then return end
  local holder = live_holder(follow_up.unique)
  if follow_up.refused_as or holder then
    increment(follow_up.refused_as or 'duplicate')
    local its_pair = 'earliest' .. (string.match(pair, '%.%..*') or '..')
    emit_event('duplicate', follow_up.id, its_pair, holder or follow_up.refused_as)
    return
  end
  insert_job(follow_up.id, follow_up.unique, follow_up.payload, tonumber(follow_up.score), follow_up.expires, '')
  wake()
end

-- Makes a job claimable again: a suspect goes to exclusive, any other job to ready at its old score.
local function make_waiting(id, job)
  local fields = redis.call('HMGET', job, 'crashes', 'releases', 'score', 'suspect')
  if tonumber(fields[1] or 0) > 0 or tonumber(fields[2] or 0) >= RELEASES_EXCLUSIVE or fields[4] then
    redis.call('ZADD', EXCLUSIVE, NOW_MS, id)
    redis.call('HSET', job, 'state', 'exclusive')
  else
    redis.call('ZADD', READY, fields[3] or 0, id)
    redis.call('HSET', job, 'state', 'ready')
  end
end

-- Start permits. host:<host> is an index of `lease`: start.lua adds a job to it, every script that ends a
-- lease removes it. So a permit lasts as long as its lease and needs no renewal. A job that finds its host
-- full is `scheduled` like any job that waits; host_waiters:<host> only orders these jobs, and one is woken
-- per permit released.
local function host_has_room(host, id)
  if HOST_IN_FLIGHT_MAX == 0 then return true end
  local permits = host_permits_key(host)
  return redis.call('SCARD', permits) - redis.call('SISMEMBER', permits, id) < HOST_IN_FLIGHT_MAX
end

-- ZSET of hosts by number of waiters, for `status`. A script that changes host waiters reads it before its
-- first write.
local WAITING_HOSTS = PREFIX .. 'waiting_hosts'
local function count_host_waiters(host)
  local waiting = redis.call('ZCARD', host_waiters_key(host))
  if waiting > 0 then redis.call('ZADD', WAITING_HOSTS, waiting, host) else redis.call('ZREM', WAITING_HOSTS, host) end
end

-- When a host waiter is rechecked without having been woken: after 30 s, or later so that at most 100 per
-- second of one host's waiters are rechecked.
local function recheck_host_at(host)
  redis.call('EXISTS', WAITING_HOSTS)
  return NOW_MS + math.max(30000, redis.call('ZCARD', host_waiters_key(host)) * 10)
end

-- Plans which host waiters to wake when `leaving` (a list of { id, hosts }) give up their permits. Only
-- reads: call it before the first write, then `leave_hosts` with its result. A woken job that does not start
-- after all wakes the next waiter when its own delivery ends, so no permit stays unused.
local function plan_host_handover(leaving_jobs)
  local handovers, by_host = {}, {}
  for _, leaving_job in ipairs(leaving_jobs) do
    for host in string.gmatch(leaving_job.hosts or '', '%S+') do
      if not by_host[host] then
        by_host[host] = { host = host, leaving_ids = {}, scanned = 0, next_ids = {} }
        handovers[#handovers + 1] = by_host[host]
      end
      table.insert(by_host[host].leaving_ids, leaving_job.id)
    end
  end
  for _, handover in ipairs(handovers) do
    local permits, leaving = host_permits_key(handover.host), #handover.leaving_ids
    local remaining = redis.call('SCARD', permits)
    for _, is_member in ipairs(redis.call('SMISMEMBER', permits, unpack(handover.leaving_ids))) do
      remaining = remaining - is_member
    end
    local free = HOST_IN_FLIGHT_MAX == 0 and leaving or math.min(leaving, HOST_IN_FLIGHT_MAX - remaining)
    local waiters = host_waiters_key(handover.host)
    for i, waiter in ipairs(free > 0 and redis.call('ZRANGE', waiters, 0, free + 19) or {}) do
      if #handover.next_ids == free then break end
      handover.scanned = i
      if redis.call('HGET', job_key(waiter), 'waits_for_host') == handover.host then
        table.insert(handover.next_ids, waiter)
      end
    end
    if handover.scanned > 0 then redis.call('EXISTS', WAITING_HOSTS) end
  end
  return handovers
end

-- Carries out a plan: releases the permits and makes the woken waiters claimable.
local function leave_hosts(handovers)
  for _, handover in ipairs(handovers) do
    redis.call('SREM', host_permits_key(handover.host), unpack(handover.leaving_ids))
    if handover.scanned > 0 then
      redis.call('ZREMRANGEBYRANK', host_waiters_key(handover.host), 0, handover.scanned - 1)
      count_host_waiters(handover.host)
    end
    for _, id in ipairs(handover.next_ids) do
      redis.call('HDEL', job_key(id), 'waits_for_host')
      redis.call('ZREM', SCHEDULED, id)
      make_waiting(id, job_key(id))
    end
    if handover.next_ids[1] then wake() end
  end
end

-- Releases the exclusive lock after a suspect has run. No suspect is claimed for as long as this one took (at
-- most one lease): suspects get at most half of one worker's time.
local function end_exclusive(id, claimed_ms)
  local lock_holder = redis.call('GET', EXCLUSIVE_LOCK)
  if not lock_holder or string.sub(lock_holder, -(#id + 1)) ~= '|' .. id then return end
  redis.call('DEL', EXCLUSIVE_LOCK)
  local took = math.max(0, NOW_MS - tonumber(claimed_ms or NOW_MS))
  redis.call('HSET', META, 'exclusive_rest_until_ms', int(NOW_MS + math.min(took, LEASE_MS)))
end

-- Ends the delivery of `id` if `token` still holds it: 'ended', 'settled' (this token settled it before and
-- the reply was lost) or 'superseded'. The first write is ZREM, which Redis allows at maxmemory, and then
-- every later write.
local function end_delivery(id, job, token)
  local fields = redis.call('HMGET', job, 'token', 'claimed_ms', 'settled', 'hosts')
  if fields[1] ~= token then return fields[3] == token and 'settled' or 'superseded' end
  local handovers = plan_host_handover({ { id = id, hosts = fields[4] } })
  redis.call('ZREM', LEASE, id)
  leave_hosts(handovers)
  redis.call('HDEL', job, 'token')
  redis.call('HSET', job, 'settled', token)
  end_exclusive(id, fields[2])
  return 'ended'
end

-- Makes a job a dead letter. The caller has removed it from the set it was in.
local function bury(id, job, kind, reason, size)
  redis.call('HDEL', job, 'next', 'next_unique')
  redis.call('HSET', job, 'state', 'dead', 'died_ms', int(NOW_MS), 'kind', kind, 'reason', reason, 'size', int(size))
  redis.call('ZADD', DEAD, NOW_MS, id)
  redis.call('ZADD', kind_key(kind), NOW_MS, id)
  redis.call('HINCRBY', META, 'dead_bytes', size)
  increment('dead')
  increment('dead:' .. kind)
end

-- Removes a job from the dead letters. The caller passes the kind and size that it read from the job.
local function remove_dead_letter(id, kind, size)
  redis.call('EXISTS', kind_key(kind or '')) -- reads a derived key before the first write
  redis.call('ZREM', DEAD, id)
  redis.call('ZREM', kind_key(kind or ''), id)
  redis.call('HINCRBY', META, 'dead_bytes', -tonumber(size or 0))
end
