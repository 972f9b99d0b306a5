-- Prelude shared by all scripts; prelude.rs puts in front of each what it uses: the statements that define the names in
-- it, and in these. A statement begins with `local` at the start of a line, and its names stand in that line.
-- KEYS     1-16: every fixed key of the queue, in the order below (`fixed` in keys.rs). A script's own keys
--          follow.
-- ARGV     1 key prefix, 2 lease in ms, 3 the caller's settings as ' name=value ...', for a queue that has not
--          stored its own yet. A script's own arguments follow.
-- Returns  nothing: this file only defines locals. Scripts return numbers as strings, so every reply is one
--          flat list.
-- Why      Redis does not roll a script back: a script reads and checks everything before its first write.
--          No script has a `#!lua` line: with it Redis refuses the whole script at maxmemory, or hides that it
--          is full. Without it Redis judges once, at the first write: one that frees memory (ZREM, DEL, LPOP,
--          HDEL) is let through, and then so is every later write of the script.
-- Bound    each function touches one job, except where it says more.
local INBOX, READY, SCHEDULED, LEASE, EXCLUSIVE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local EXCLUSIVE_LOCK, DEAD, PAUSED, WAKE, EVENTS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local META, SEQ, WAITING, RESULTS = KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local SUSPECTS, SEGMENTS = KEYS[15], KEYS[16]
local PREFIX, LEASE_MS, FALLBACK = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local FIXED = 16
local UNIQUE_MS, STATS_MS, STATS_SECONDS = 30 * 86400000, 300000, 90000

local function key(i) return KEYS[FIXED + i] end
local function arg(i) return ARGV[3 + i] end
local function int(n) return string.format('%.0f', n) end
local function job_key(id) return PREFIX .. 'job:' .. id end
local function kind_key(kind) return PREFIX .. 'dead:kind:' .. kind end
local function suspect_key(content) return PREFIX .. 'suspect:' .. content end
local function host_permits_key(host) return PREFIX .. 'host:' .. host end
local function host_waiters_key(host) return PREFIX .. 'host_waiters:' .. host end
local function report_key(pair) return PREFIX .. 'report:' .. pair end
local function ended_key(id) return PREFIX .. 'ended:' .. id end

-- Every deadline uses the server's clock: one clock for all workers.
local time = redis.call('TIME')
local NOW_MS = time[1] * 1000 + math.floor(time[2] / 1000)
local STATS = PREFIX .. 'stats:' .. int(math.floor(NOW_MS / STATS_MS))

-- A setting of the queue: what is stored wins; the caller's applies until a worker has stored one. Read once in a call.
local settings = {}
local function own_setting(name) return string.match(FALLBACK, ' ' .. name .. '=(%S+)') end
local function text_setting(name)
  settings[name] = settings[name] or redis.call('HGET', META, name) or own_setting(name)
  return settings[name]
end
local function setting(name) return tonumber(text_setting(name)) or tonumber(own_setting(name)) end

-- True when Redis is at maxmemory. Ask before the first write: SETRANGE of nothing changes nothing, and is
-- refused exactly when a write that needs memory would be.
local function is_full()
  local probe = redis.pcall('SETRANGE', SEQ, 0, '')
  return type(probe) == 'table' and string.find(probe.err or '', 'OOM') ~= nil
end

-- Shares of maxmemory: above the first nothing is admitted, above the second reports are evicted until the
-- third is reached, above the last a report is stored as its summary.
local INTAKE_SHARE, EVICT_ABOVE, EVICT_BELOW, LEAN_SHARE = 0.80, 0.85, 0.75, 0.90
-- Largest shares of maxmemory that reports and dead letters may take, whatever their own caps are.
local REPORTS_SHARE, DEAD_SHARE = 0.4, 0.15

-- Used and largest memory of Redis as it compares them itself; nil without maxmemory.
local function read_memory()
  local info = redis.call('INFO', 'memory')
  -- Found as plain text: a pattern is tried at each of two thousand places, which costs more than INFO itself.
  local function number(name)
    local _, colon = string.find(info, '\n' .. name .. ':', 1, true)
    return colon and tonumber(string.match(info, '^%d+', colon + 1)) or 0
  end
  local max = number('maxmemory')
  if max == 0 then return nil end
  return { used = number('used_memory') - number('mem_not_counted_for_evict'), max = max }
end

-- A cap in bytes: the setting, or its share of maxmemory where that is less.
local function byte_cap(name, memory, share)
  local cap = setting(name)
  return memory and math.min(cap, math.floor(memory.max * share)) or cap
end

-- Bytes of one key as MEMORY USAGE counts them, all of it; 0 when it does not exist. Like all that is only counted it
-- never fails the script.
local function bytes_of(name)
  local bytes = redis.pcall('MEMORY', 'USAGE', name, 'SAMPLES', 0)
  return type(bytes) == 'number' and bytes or 0
end

-- Counters, events and the indexes by age are hints: pcall, so that their failure never fails the script.
-- A script of many jobs collects what it adds, by key and field, from `collect_counts` to `write_counts`: one command for
-- each field instead of one for each job.
local collected
local function add_to(hash, field, by)
  if collected then
    collected[hash][field] = (collected[hash][field] or 0) + by
  elseif redis.pcall('HINCRBY', hash, field, int(by)) == by and hash == STATS then
    redis.pcall('EXPIRE', STATS, STATS_SECONDS)
  end
end
local function collect_counts() collected = { [META] = {}, [STATS] = {} } end
local function write_counts()
  local counts = collected
  collected = nil
  for hash, fields in pairs(counts) do
    for field, by in pairs(fields) do
      if by ~= 0 then add_to(hash, field, by) end
    end
  end
end

-- Adds to the count and the bytes of a purpose (`<purpose>_count`, `<purpose>_bytes` in META).
local function account(purpose, count, bytes)
  if count ~= 0 then add_to(META, purpose .. '_count', count) end
  if bytes ~= 0 then add_to(META, purpose .. '_bytes', bytes) end
end

-- Counters are kept in buckets of five minutes for a day.
local function increment(field, by) add_to(STATS, field, by or 1) end

local function emit_event(type, id, pair, why, sniffed)
  local dots = string.find(pair or '', '..', 1, true)
  local from, to = dots and string.sub(pair, 1, dots - 1) or '', dots and string.sub(pair, dots + 2) or ''
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', text_setting('events_max'), '*',
    'type', type, 'id', id, 'from', from, 'to', to, 'why', why or '', unpack(sniffed and sniffed ~= '' and { 'sniffed', sniffed } or {}))
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

-- Gives the jobs `ids` leases, or renews theirs.
local function set_leases(ids)
  local leases = {}
  for _, id in ipairs(ids) do
    leases[#leases + 1] = NOW_MS + LEASE_MS
    leases[#leases + 1] = id
  end
  redis.call('ZADD', LEASE, unpack(leases))
end

-- The live states, and the index that a job in each of them stands in.
local INDEX_OF = { ready = READY, scheduled = SCHEDULED, in_flight = LEASE, exclusive = EXCLUSIVE }

-- The job id that holds a lock, or nil. A lock counts only while its job stands in the index of its state.
local function live_holder(unique)
  local holder = redis.call('GET', unique)
  if not holder then return nil end
  local index = INDEX_OF[redis.call('HGET', job_key(holder), 'state') or '']
  return index and redis.call('ZSCORE', index, holder) and holder or nil
end

-- Releases a job's lock when the job leaves the live states, unless another job holds it by now.
local function release_unique_lock(unique, id)
  if redis.call('GET', unique) == id then redis.call('DEL', unique) end
end

-- Counts what a waiting job takes up: its hash and its lock. Call it whenever the hash has changed for long; `counted`
-- is what was counted before, where the caller knows.
local function recount_job(job, unique, counted)
  local bytes = bytes_of(job) + bytes_of(unique)
  account('jobs', 0, bytes - tonumber(counted or redis.call('HGET', job, 'bytes') or 0))
  redis.call('HSET', job, 'bytes', int(bytes))
end

-- Creates a job in ready or scheduled and takes its lock. The caller has checked that id and lock are free.
local function insert_job(id, unique, payload, score, expires, run_at, follow_up, follow_up_unique)
  local job, later = job_key(id), run_at ~= '' and tonumber(run_at) > NOW_MS
  redis.call('HSET', job, 'payload', payload, 'state', later and 'scheduled' or 'ready', 'score', int(score),
    'enqueued_ms', int(NOW_MS), 'unique', string.sub(unique, -64))
  if expires ~= '' then redis.call('HSET', job, 'expires_ms', expires) end
  if (follow_up or '') ~= '' then redis.call('HSET', job, 'next', follow_up, 'next_unique', follow_up_unique) end
  if later then
    redis.call('HSET', job, 'run_at_ms', run_at) -- with which an orphan is filed again
    redis.call('ZADD', SCHEDULED, run_at, id)
    redis.call('SET', unique, id, 'PX', int(UNIQUE_MS + run_at - NOW_MS))
  else
    redis.call('ZADD', READY, score, id)
    redis.pcall('ZADD', WAITING, NOW_MS, id)
    redis.call('SET', unique, id, 'PX', UNIQUE_MS)
  end
  account('jobs', 1, 0)
  recount_job(job, unique, 0)
  increment('admitted')
end

-- Discarded letters, kept for a day in the budget of the dead letters, where they give way first: `trash`, a ZSET by
-- the time they were discarded. META counts them in `trash_bytes`.
local TRASH = PREFIX .. 'trash'
local function remove_from_trash(id)
  local size = tonumber(redis.call('HGET', job_key(id), 'size') or 0)
  redis.call('ZREM', TRASH, id) -- allowed at maxmemory, and so is every later write
  account('trash', -1, -size)
end

-- The job to admit once this one has ended, or nil. Only reads: call it before the first write.
local function follow_up_of(id, job)
  local fields = redis.call('HMGET', job, 'next', 'next_unique', 'score', 'expires_ms')
  if not fields[1] then return nil end
  local follow_up = { id = id .. '.earliest', payload = fields[1], unique = PREFIX .. 'unique:' .. fields[2],
    score = fields[3] or 0, expires = fields[4] or '' }
  local state = redis.call('HGET', job_key(follow_up.id), 'state')
  follow_up.refused_as = state and state ~= 'trash' and 'same_id'
  follow_up.is_in_trash = state == 'trash'
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
  if follow_up.is_in_trash then
    remove_from_trash(follow_up.id)
    redis.call('UNLINK', job_key(follow_up.id))
  end
  insert_job(follow_up.id, follow_up.unique, follow_up.payload, tonumber(follow_up.score), follow_up.expires, '')
  wake()
end

-- How many jobs like this one run at a time, with nothing else in flight at their worker; nil: any number, beside
-- others. What was in a child when a worker vanished runs alone. A worker that vanished while it fetched held
-- hundreds of jobs: from the third time on these run in groups that get smaller, so that few worker deaths find the
-- one that kills, and none of the others is still suspected.
local FETCH_CRASHES_ALONE = 5
local function group_max(crashes, releases, suspect, fetch_crashes)
  fetch_crashes = tonumber(fetch_crashes or 0)
  if tonumber(crashes or 0) > 0 or suspect or fetch_crashes >= FETCH_CRASHES_ALONE
    or tonumber(releases or 0) >= setting('releases_exclusive') then return 1 end
  return fetch_crashes == 4 and 2 or fetch_crashes == 3 and 8 or nil
end

-- Makes a job claimable again: a suspect goes to exclusive, any other job to ready, at its old score or, after a
-- failure or a postponement, behind the newest jobs.
local function make_waiting(id, job)
  local fields = redis.call('HMGET', job, 'crashes', 'releases', 'suspect', 'fetch_crashes', 'score', 'enqueued_ms',
    'priority_offset')
  local score = fields[5] or 0
  if fields[7] then
    score = int(redis.call('INCR', SEQ) + tonumber(fields[7]))
    redis.call('HDEL', job, 'priority_offset')
    redis.call('HSET', job, 'score', score)
  end
  redis.pcall('ZADD', WAITING, fields[6] or NOW_MS, id)
  if group_max(fields[1], fields[2], fields[3], fields[4]) then
    redis.call('ZADD', EXCLUSIVE, NOW_MS, id)
    redis.call('HSET', job, 'state', 'exclusive')
  else
    redis.call('ZADD', READY, score, id)
    redis.call('HSET', job, 'state', 'ready')
  end
end

-- Hosts that rest. After failures in a row without a success the breaker of a host opens: nobody visits it until the
-- end of its rest, and then one job at a time does (half open), until one succeeds. An operator can make a host rest,
-- too. Nothing of this is read with `call`: a key of another type is a breaker less, not a queue that stands still.
--   host_breakers  HASH, per host that failed since its last success (JSON): `failures` in a row, up to three of the
--                  `jobs` that these were of, the `kind` of the last one, `rest_ms`: how long it rested last
--   failed_hosts   ZSET of these hosts by their last failure
--   resting_hosts  ZSET of those whose breaker is open, by the end of their rest
--   host_rests     HASH of the operators' rests by host (JSON)
--   proven_hosts   ZSET of hosts by their last success
-- One table, because a script has at most 200 locals.
local HOSTS = {
  breakers = PREFIX .. 'host_breakers', failed = PREFIX .. 'failed_hosts', resting = PREFIX .. 'resting_hosts',
  rests = PREFIX .. 'host_rests', proven = PREFIX .. 'proven_hosts',
  -- Most hosts that are remembered as failed, and as proven: a wildcard name makes hosts for free. 300 bytes each.
  most = 10000,
  -- How long a success proves a host, and a failure is remembered.
  proven_ms = 300000, failed_ms = 3600000,
  -- A job that is older than a week waits for no breaker any more: its failures count, so it ends.
  wait_ms = 7 * 86400000,
  -- Most host waiters that one call wakes at a host; most of those that wait for the share of new hosts that it looks
  -- at when a host is proven, and when a permit of the share is given up.
  wake_most = 64, look_most = 500, share_look = 100,
}

local function score_of(zset, member) return tonumber(redis.pcall('ZSCORE', zset, member) or nil) end
local function json_of(hash, field)
  local text = redis.pcall('HGET', hash, field)
  local ok, read = pcall(cjson.decode, type(text) == 'string' and text or '{}')
  return ok and type(read) == 'table' and read or {}
end
local function end_by_hand(host)
  local ends = tonumber(json_of(HOSTS.rests, host).until_ms) or 0
  return ends > NOW_MS and ends or nil
end

-- When the rest of a host ends: nil when it has none; in the past while its breaker is half open. Remembered for the
-- call: a script that changes it says so here before it plans what follows.
local rest_ends, any_rests = {}, nil
-- Whether any host rests at all: usually none does, and then none is looked up. Read once in a call.
local function any_host_rests()
  if any_rests == nil then any_rests = redis.pcall('EXISTS', HOSTS.resting, HOSTS.rests) ~= 0 end
  return any_rests
end
local function rest_end(host)
  if rest_ends[host] == nil then
    if not any_host_rests() then return nil end
    local by_hand, breaker = end_by_hand(host), score_of(HOSTS.resting, host)
    rest_ends[host] = by_hand and math.max(by_hand, breaker or 0) or breaker or false
  end
  return rest_ends[host] or nil
end

-- A host without a success in the last five minutes is new. New hosts together hold at most a share of a worker's
-- fetch permits, because a wildcard name makes them for free. The share is a host by the name of
-- `~new:<worker>:<most>`, which stands among the hosts of their jobs; no real host has such a name.
local new_hosts = {}
local function is_new(host)
  if new_hosts[host] == nil then new_hosts[host] = (score_of(HOSTS.proven, host) or 0) <= NOW_MS - HOSTS.proven_ms end
  return new_hosts[host]
end
local function share_of_new(worker, most) return '~new:' .. worker .. ':' .. most end
local function is_share(host) return string.sub(host, 1, 5) == '~new:' end
local function has_new(hosts)
  for host in string.gmatch(hosts, '%S+') do
    if not is_share(host) and is_new(host) then return true end
  end
  return false
end

-- Hosts whose pages keep killing children. `child_kills` is a HASH of hosts (JSON): `since_ms`, when its ten minutes
-- began, `kills`, and `others`: jobs that were in a child and ended otherwise since then. From the tenth kill on, while
-- these are more than half, the host is held: its breaker is open, its jobs wait for it, and one at a time tries again
-- at growing intervals, until one lives. All of it is a hint: pcall.
local QUARANTINE = {
  kills = PREFIX .. 'child_kills', window_ms = 600000, from = 10,
  -- Hosts that are counted, 100 bytes each: a wildcard name makes hosts for free.
  most = 1000,
  first_rest_ms = 60000, longest_rest_ms = 1800000,
}
function QUARANTINE.known(host)
  local known = json_of(QUARANTINE.kills, host)
  local is_old = (tonumber(known.since_ms) or 0) <= NOW_MS - QUARANTINE.window_ms
  return is_old and { since_ms = NOW_MS, kills = 0, others = 0 } or known
end
-- Counts a kill, before the delivery ends: jobs that wait for the host must not be woken for a host that is held now.
function QUARANTINE.record_kill(host)
  local known = QUARANTINE.known(host)
  known.kills = known.kills + 1
  redis.pcall('HDEL', QUARANTINE.kills, host) -- allowed at maxmemory, and so is every later write
  if (tonumber(redis.pcall('HLEN', QUARANTINE.kills)) or 0) >= QUARANTINE.most then
    local any = redis.pcall('HRANDFIELD', QUARANTINE.kills)
    if type(any) == 'string' then redis.pcall('HDEL', QUARANTINE.kills, any) end
  end
  redis.pcall('HSET', QUARANTINE.kills, host, cjson.encode(known))
  local breaker, ends, rest_ms = json_of(HOSTS.breakers, host), score_of(HOSTS.resting, host), nil
  if ends and ends <= NOW_MS then -- a probe
    rest_ms = math.max((tonumber(breaker.rest_ms) or 0) * 2, QUARANTINE.first_rest_ms)
    rest_ms = math.min(rest_ms, QUARANTINE.longest_rest_ms)
  elseif not ends and known.kills >= QUARANTINE.from and known.kills > known.others then
    rest_ms = QUARANTINE.first_rest_ms
  end
  if not rest_ms then return end
  breaker = { failures = known.kills, kind = 'quarantine', rest_ms = rest_ms }
  redis.pcall('HSET', HOSTS.breakers, host, cjson.encode(breaker))
  redis.pcall('ZADD', HOSTS.failed, NOW_MS, host)
  redis.pcall('ZADD', HOSTS.resting, int(NOW_MS + rest_ms), host)
  rest_ends[host] = math.max(NOW_MS + rest_ms, end_by_hand(host) or 0)
end
-- Counts a job that was in a child and did not kill it, at each of its hosts that is counted.
function QUARANTINE.record_other(hosts)
  for host in string.gmatch(hosts or '', '%S+') do
    if redis.pcall('HEXISTS', QUARANTINE.kills, host) == 1 then
      local known = QUARANTINE.known(host)
      known.others = known.others + 1
      redis.pcall('HSET', QUARANTINE.kills, host, cjson.encode(known))
    end
  end
end

-- Start permits. host:<host> is an index of `lease`: start.lua adds a job to it, every script that ends a
-- lease removes it. So a permit lasts as long as its lease and needs no renewal. A job that finds its host
-- full is `scheduled` like any job that waits; host_waiters:<host> only orders these jobs, and one is woken
-- per permit released.
local function host_ceiling(host)
  if is_share(host) then return tonumber(string.match(host, ':(%d+)$')) end
  local ends = rest_end(host)
  if ends then return ends > NOW_MS and 0 or 1 end
  local most, most_new = setting('host_in_flight_max'), setting('new_host_in_flight_max')
  if most == 0 then most = math.huge end
  return most_new > 0 and is_new(host) and math.min(most, most_new) or most
end

-- `granted`: permits that this call grants and has not written yet. Also returns 1 when the job has a permit already.
local function host_has_room(host, id, granted)
  local permits = host_permits_key(host)
  local is_member = redis.call('SISMEMBER', permits, id)
  return redis.call('SCARD', permits) - is_member + (granted or 0) < host_ceiling(host), is_member
end

-- ZSET of hosts by number of waiters, for `status`. A script that changes host waiters reads it before its
-- first write.
local WAITING_HOSTS = PREFIX .. 'waiting_hosts'
local function count_host_waiters(host)
  local waiting = redis.call('ZCARD', host_waiters_key(host))
  if waiting > 0 then redis.pcall('ZADD', WAITING_HOSTS, waiting, host) else redis.call('ZREM', WAITING_HOSTS, host) end
end

-- When a host waiter is rechecked without having been woken: after 30 s, or later so that at most 100 per
-- second of one host's waiters are rechecked, and not before the end of the host's rest.
local function recheck_host_at(host)
  redis.call('EXISTS', WAITING_HOSTS)
  return math.max(NOW_MS + 30000, NOW_MS + redis.call('ZCARD', host_waiters_key(host)) * 10, rest_end(host) or 0)
end

-- Plans which host waiters to wake when `leaving` (a list of { id, hosts }) give up their permits. Only
-- reads: call it before the first write, then `leave_hosts` with its result. A woken job that does not start
-- after all wakes the next waiter when its own delivery ends, so no permit stays unused. One whose hosts are
-- proven by now does not need the share of new hosts and would wake nobody there, so all such are woken.
local function plan_host_handover(leaving_jobs)
  local handovers, by_host = {}, {}
  for _, leaving_job in ipairs(leaving_jobs) do
    for host in string.gmatch(leaving_job.hosts or '', '%S+') do
      if not by_host[host] then
        by_host[host] = { host = host, leaving_ids = {}, gone_ids = {}, next_ids = {} }
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
    local free, share = math.min(leaving, host_ceiling(handover.host) - remaining), is_share(handover.host)
    local look = free > 0 and (share and HOSTS.share_look or free + 20) or 0
    for _, waiter in ipairs(look > 0 and redis.call('ZRANGE', host_waiters_key(handover.host), 0, look - 1) or {}) do
      if free == 0 and not share then break end
      local fields = redis.call('HMGET', job_key(waiter), 'waits_for_host', 'hosts')
      local waits, needs_permit = fields[1] == handover.host, not share or has_new(fields[2] or '')
      if waits and (free > 0 or not needs_permit) then
        table.insert(handover.next_ids, waiter)
        if needs_permit then free = free - 1 end
      end
      if not waits or handover.next_ids[#handover.next_ids] == waiter then table.insert(handover.gone_ids, waiter) end
    end
    if handover.gone_ids[1] then redis.call('EXISTS', WAITING_HOSTS) end
  end
  return handovers
end

-- Carries out a plan: releases the permits and makes the woken waiters claimable.
local function leave_hosts(handovers)
  for _, handover in ipairs(handovers) do
    redis.call('SREM', host_permits_key(handover.host), unpack(handover.leaving_ids))
    if handover.gone_ids[1] then
      redis.call('ZREM', host_waiters_key(handover.host), unpack(handover.gone_ids))
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

-- The first `count` of those that wait for a host, among the first `count` + 20. Only reads.
local function first_waiters(host, count)
  local ids = {}
  redis.call('EXISTS', WAITING_HOSTS)
  for _, id in ipairs(count > 0 and redis.call('ZRANGE', host_waiters_key(host), 0, count + 19) or {}) do
    if #ids < count and redis.call('HGET', job_key(id), 'waits_for_host') == host then ids[#ids + 1] = id end
  end
  return ids
end

-- Makes a host waiter claimable.
local function wake_waiter(host, id)
  redis.call('ZREM', host_waiters_key(host), id)
  redis.call('HDEL', job_key(id), 'waits_for_host')
  redis.call('ZREM', SCHEDULED, id)
  make_waiting(id, job_key(id))
  wake()
end

-- Plans to wake as many waiters as a host has room for, once its rest has ended or it is proven. Only reads.
local function plan_opening(host)
  local room = math.min(HOSTS.wake_most, host_ceiling(host) - redis.call('SCARD', host_permits_key(host)))
  first_waiters(host, room) -- reads derived keys before the first write
  return { host = host, room = room, moved = {} }
end
local function open_host(plan)
  for _, one in ipairs(plan.moved) do
    if redis.call('ZREM', host_waiters_key(plan.share), one.id) == 1 then -- not woken meanwhile, by who left
      redis.call('ZADD', host_waiters_key(plan.host), one.score, one.id)
      redis.call('HSET', job_key(one.id), 'waits_for_host', plan.host)
    end
  end
  if plan.moved[1] then count_host_waiters(plan.share) end
  for _, id in ipairs(first_waiters(plan.host, plan.room)) do wake_waiter(plan.host, id) end
  count_host_waiters(plan.host)
end

local plan_success, record_success
do
  -- The jobs at a host that wait for the share of new hosts, among the first HOSTS.look_most that do.
  local function waiters_of_share(share, host)
    local found, waiters = {}, redis.call('ZRANGE', host_waiters_key(share), 0, HOSTS.look_most - 1, 'WITHSCORES')
    for i = 1, #waiters, 2 do
      local fields = redis.call('HMGET', job_key(waiters[i]), 'waits_for_host', 'hosts')
      if fields[1] == share and string.find(' ' .. (fields[2] or '') .. ' ', ' ' .. host .. ' ', 1, true) then
        found[#found + 1] = { id = waiters[i], score = waiters[i + 1] }
      end
    end
    return found
  end

  -- Plans what a visit that succeeded changes: its hosts are proven for five minutes and their failures forgotten; a
  -- breaker closes. Where that raises a host's ceiling its waiters are woken. `hosts` is as start.lua stored it. Only reads.
  local succeeded = {}
  function plan_success(hosts)
    local plans = {}
    for host in string.gmatch(hosts or '', '%S+') do
      local proven_ms = not is_share(host) and not succeeded[host] and (score_of(HOSTS.proven, host) or 0)
      local was_open = proven_ms and any_host_rests() and score_of(HOSTS.resting, host) ~= nil
      local failed = proven_ms and (was_open or redis.pcall('HEXISTS', HOSTS.breakers, host) == 1)
      -- Written again only once a minute while nothing changes.
      if failed or (proven_ms and proven_ms < NOW_MS - 60000) then
        local plan, was_new = { host = host, failed = failed }, is_new(host)
        succeeded[host], new_hosts[host], rest_ends[host] = true, false, end_by_hand(host) or false
        local share = string.match(hosts, '~new:%S+')
        if was_open or was_new and (share or setting('new_host_in_flight_max') > 0) then
          plan.opening = plan_opening(host)
          plan.opening.share = share
          if plan.opening.share then plan.opening.moved = waiters_of_share(plan.opening.share, host) end
        end
        plans[#plans + 1] = plan
      end
    end
    return plans
  end
  function record_success(plans)
    for _, plan in ipairs(plans) do
      if plan.failed then
        redis.pcall('HDEL', HOSTS.breakers, plan.host) -- allowed at maxmemory, and so is every later write
        redis.pcall('ZREM', HOSTS.failed, plan.host)
        redis.pcall('ZREM', HOSTS.resting, plan.host)
      end
      redis.pcall('ZADD', HOSTS.proven, NOW_MS, plan.host)
      redis.pcall('ZREMRANGEBYSCORE', HOSTS.proven, '-inf', int(NOW_MS - HOSTS.proven_ms))
      redis.pcall('ZREMRANGEBYRANK', HOSTS.proven, 0, -HOSTS.most - 1)
      if plan.opening then open_host(plan.opening) end
    end
  end
end

-- Forgets hosts whose last failure is an hour ago, or that are more than may be remembered, oldest first. Most of one
-- call: `most`.
local function forget_failed_hosts(most)
  local count = tonumber(redis.pcall('ZCARD', HOSTS.failed)) or 0
  local oldest = redis.pcall('ZRANGE', HOSTS.failed, 0, most - 1, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    if count <= HOSTS.most and tonumber(oldest[i + 1]) > NOW_MS - HOSTS.failed_ms then break end
    redis.pcall('ZREM', HOSTS.failed, oldest[i]) -- allowed at maxmemory, and so is every later write
    redis.pcall('HDEL', HOSTS.breakers, oldest[i])
    redis.pcall('ZREM', HOSTS.resting, oldest[i])
    count = count - 1
  end
end

-- EXCLUSIVE_LOCK holds `<worker>` while that worker drains, and `<worker>|<id>|<id>...` while a group of suspects is in
-- flight there.
local function runs_exclusively(lock, id)
  return lock and string.find(lock .. '|', '|' .. id .. '|', 1, true) ~= nil
end

-- Takes a job out of the group that runs exclusively; the last one releases the lock. No suspect is claimed for as
-- long as this group took (at most one lease): suspects get at most half of one worker's time.
local function end_exclusive(id, claimed_ms)
  local lock = redis.call('GET', EXCLUSIVE_LOCK)
  if not runs_exclusively(lock, id) then return end
  local from, to = string.find(lock .. '|', '|' .. id .. '|', 1, true)
  local left = string.sub(lock, 1, from - 1) .. string.sub(lock, to)
  if string.find(left, '|', 1, true) then
    redis.call('SET', EXCLUSIVE_LOCK, left, 'KEEPTTL')
    return
  end
  redis.call('DEL', EXCLUSIVE_LOCK)
  local took = math.max(0, NOW_MS - tonumber(claimed_ms or NOW_MS))
  redis.call('HSET', META, 'exclusive_rest_until_ms', int(NOW_MS + math.min(took, LEASE_MS)))
end

-- Tokens of settled deliveries, by id: a settle that is repeated after a lost reply finds its own here.
local function settled_key(token) return PREFIX .. 'settled:' .. token end
local function was_settled(id, token) return redis.call('SISMEMBER', settled_key(token), id) == 1 end
local settled_expires = {} -- by token: all jobs of one claim have the same
local function remember_settled(id, token)
  redis.call('SADD', settled_key(token), id)
  if settled_expires[token] then return end
  settled_expires[token] = true
  redis.call('PEXPIRE', settled_key(token), LEASE_MS) -- a settle is repeated only while its lease could live
end

-- Ends the delivery of `id` if `token` still holds it: 'ended', 'settled' (this token settled it before and
-- the reply was lost) or 'superseded'. The first write is ZREM, which Redis allows at maxmemory, and then
-- every later write.
local function end_delivery(id, job, token)
  local fields = redis.call('HMGET', job, 'token', 'claimed_ms', 'hosts')
  if fields[1] ~= token then return was_settled(id, token) and 'settled' or 'superseded' end
  local handovers = plan_host_handover({ { id = id, hosts = fields[3] } })
  redis.call('EXISTS', settled_key(token)) -- reads a derived key before the first write
  redis.call('ZREM', LEASE, id)
  leave_hosts(handovers)
  redis.call('HDEL', job, 'token')
  remember_settled(id, token)
  end_exclusive(id, fields[2])
  return 'ended'
end

-- True when a stored report is an analysis, not a skip or a death. Schema 2 stored no state.
local function is_analysis(report)
  local state = string.match(report, '^{"id":"[^"]*","state":"(%a+)"')
  return state == 'done' or (not state and report ~= '' and not string.find(report, '"skipped":', 1, true))
end
-- True when a stored report is a skip that would be the same again.
local function is_permanent_skip(report)
  return string.find(report, '^{"id":"[^"]*","state":"skipped","permanent":true,') ~= nil
end
-- A report replaces one of its own rank or a lower one.
local function rank(report) return is_analysis(report) and 2 or is_permanent_skip(report) and 1 or 0 end
local function read_report(pair) -- a key of another type is overwritten as if it were empty
  local report = redis.pcall('GETRANGE', report_key(pair), 0, 1023)
  return type(report) == 'string' and report or ''
end

-- Stores what a job ended with, under its pair and under its id. An analysis replaces anything; a skip or a
-- death never replaces the analysis of another job, and what may end otherwise next time never a permanent skip.
-- RESULTS, by time, decides how long both are kept: their own expiry is only a backstop. Returns the bytes
-- added. Call `read_result_keys` before the first write.
local has_no_result, pairs_read = {}, {} -- by id: neither key existed, and no other job of the call has this pair
local function read_result_keys(id, pair)
  has_no_result[id] = redis.call('EXISTS', report_key(pair), ended_key(id)) == 0 and not pairs_read[pair]
  pairs_read[pair] = true
end
local function store_result(id, pair, ended, report, replaces)
  local report_at, ended_at, ttl = report_key(pair), ended_key(id), int(2 * setting('report_ttl'))
  local before = has_no_result[id] and 0 or bytes_of(report_at) + bytes_of(ended_at)
  if pair ~= '' and (replaces or rank(report) >= rank(read_report(pair))) then
    redis.call('SET', report_at, report, 'PX', ttl)
  end
  redis.call('SET', ended_at, ended, 'PX', ttl)
  redis.pcall('ZADD', RESULTS, NOW_MS, id)
  local added = bytes_of(report_at) + bytes_of(ended_at) - before
  account('reports', 0, added)
  return added
end

-- Forgets the result of one job; its pair's report only while it is still this job's. Returns the bytes freed.
local function forget_result(id)
  local ended_at = ended_key(id)
  local ok, ended = pcall(cjson.decode, redis.pcall('GET', ended_at) or '')
  local pair = ok and type(ended) == 'table' and type(ended.pair) == 'string' and ended.pair or ''
  local freed, keys = bytes_of(ended_at), { ended_at }
  if string.sub(read_report(pair), 1, #id + 8) == '{"id":"' .. id .. '"' then
    freed = freed + bytes_of(report_key(pair))
    keys[2] = report_key(pair)
  end
  redis.call('ZREM', RESULTS, id)
  redis.call('UNLINK', unpack(keys))
  account('reports', 0, -freed)
  return freed
end

-- Dead letters are counted in groups, a kind of failure at a host. A group is a HASH, `dead_group:<kind> <host>`:
--   `dead` (letters now), `total`, `first_ms`, `last_ms`, `last_id`, `sentence` (of the last one), `build`; deaths of
--   ten minutes and of an hour (`m<number>`, `h<number>`); `replayed`, and how these ended: `re:done`, `re:skipped`,
--   `re:dead`. All of it is a hint: pcall.
-- One table, because a script has at most 200 locals.
local GROUPS = {
  -- ZSET of the groups by their last death.
  index = PREFIX .. 'dead_groups',
  -- Groups that are counted separately, 6 KiB each at most; the hosts of further ones are counted together, as `*`.
  most = 500, kept_ms = 8 * 86400000,
  -- Buckets and how many of them are kept: the last three hours, and eight days.
  buckets = { m = { ms = 600000, kept = 19 }, h = { ms = 3600000, kept = 192 } },
}
function GROUPS.key(name) return PREFIX .. 'dead_group:' .. name end
function GROUPS.name(kind, host)
  local name = kind .. ' ' .. ((host or '') == '' and '-' or host)
  if score_of(GROUPS.index, name) then return name end
  return (tonumber(redis.pcall('ZCARD', GROUPS.index)) or 0) < GROUPS.most and name or kind .. ' *'
end
-- Only in a group that is still counted: one that has expired does not come back without its index and its end.
function GROUPS.add(name, field, by)
  if redis.pcall('EXISTS', GROUPS.key(name)) == 1 then redis.pcall('HINCRBY', GROUPS.key(name), field, by) end
end
-- Counts a death in its group.
function GROUPS.record_death(name, id, sentence, build)
  local group = GROUPS.key(name)
  local before = bytes_of(group)
  redis.pcall('HINCRBY', group, 'total', 1)
  redis.pcall('HSETNX', group, 'first_ms', int(NOW_MS))
  redis.pcall('HSET', group, 'last_ms', int(NOW_MS), 'last_id', id, 'sentence', sentence, 'build', build)
  for letter, bucket in pairs(GROUPS.buckets) do
    local newest = math.floor(NOW_MS / bucket.ms)
    if redis.pcall('HINCRBY', group, letter .. int(newest), 1) == 1 then
      local fields = redis.pcall('HKEYS', group)
      for _, field in ipairs(fields.err and {} or fields) do
        local number = tonumber(string.match(field, '^' .. letter .. '(%d+)$') or newest)
        if number <= newest - bucket.kept then redis.pcall('HDEL', group, field) end
      end
    end
  end
  redis.pcall('PEXPIRE', group, int(GROUPS.kept_ms + 86400000)) -- upkeep forgets it, and counts that, before
  redis.pcall('ZADD', GROUPS.index, NOW_MS, name)
  account('groups', 0, bytes_of(group) - before)
end

-- What an operator's bulk action did: `operation_jobs:<id>` is a HASH of job ids, each with what became of it; `left` of
-- `operation:<id>` is how many were not come to. Only while these exist: their life is bounded, and a job may outlive it.
local OPERATIONS = {}
function OPERATIONS.key(operation) return PREFIX .. 'operation:' .. operation end
function OPERATIONS.jobs_key(operation) return PREFIX .. 'operation_jobs:' .. operation end
function OPERATIONS.record(operation, id, what)
  if (operation or '') == '' then return end
  local jobs = OPERATIONS.jobs_key(operation)
  local known = redis.pcall('HGET', jobs, id)
  if type(known) ~= 'string' then return end
  local is_first = string.sub(known, 1, 9) == 'selected:'
  -- Who comes to a job a second time, and finds it no more where it was, knows less than what is recorded.
  if what == 'missing' and not is_first then return end
  redis.pcall('HSET', jobs, id, what)
  if is_first and redis.pcall('HEXISTS', OPERATIONS.key(operation), 'left') == 1 then
    redis.pcall('HINCRBY', OPERATIONS.key(operation), 'left', -1)
  end
end

-- How a job that was replayed has ended: in the group that it was replayed from, and in its operation.
local function record_replay(id, operation, group, replayed, state, why)
  if group and replayed then GROUPS.add(group, 're:' .. state, 1) end
  OPERATIONS.record(operation, id, why == '' and state or state .. ':' .. why)
end

-- A job's history: a line of JSON for each delivery that did not end it and for what people did with it, in `log`;
-- the oldest are forgotten beyond 4 KB, and counted in `log_cut`. 300 bytes of a sentence at most.
local LOG_MAX_BYTES, LOG_WHY_MAX_BYTES = 4000, 300
local function log_line(job, entry)
  entry.at_ms = NOW_MS
  entry.why = entry.why and string.gsub(string.sub(entry.why, 1, LOG_WHY_MAX_BYTES), '[\128-\255]*$', '') or nil
  local log = redis.pcall('HGET', job, 'log')
  log = (type(log) == 'string' and log or '') .. cjson.encode(entry) .. '\n'
  local cut = 0
  while #log > LOG_MAX_BYTES do
    log = string.sub(log, string.find(log, '\n', 1, true) + 1)
    cut = cut + 1
  end
  redis.pcall('HSET', job, 'log', log)
  if cut > 0 then redis.pcall('HINCRBY', job, 'log_cut', cut) end
end
-- The end of a delivery: at which worker it was, and for how long.
local function log_delivery(job, what, why)
  local fields = redis.call('HMGET', job, 'worker', 'claimed_ms')
  log_line(job, { what = what, why = why, worker = fields[1] or nil, took_ms = math.max(0, NOW_MS - tonumber(fields[2] or NOW_MS)) })
end

-- What no alert has reported yet. A letter is counted in the call that buries it, so that no worker that dies takes a
-- count with it; claim_alert.lua gives it to one worker, which reports it for all. Only counted, so by pcall.
--   alerts                   HASH: `letters` buried, what claim_alert.lua needs to know their rate
--   alerts:due               ZSET of the groups by the time from which they may be reported
--   alerts:group:<group>     HASH of a group `letter:<kind>:<stage>` or `outage:<what>`
--   alerts:reported:<group>  STRING, the window in ms in which the group is not reported again, and lives for it
-- One table, because a script has at most 200 locals.
local ALERTS = {
  state = PREFIX .. 'alerts', due = PREFIX .. 'alerts:due',
  -- Hosts that are counted by name in a group; a wildcard name makes them for free. An event names five.
  hosts_most = 50,
  -- The longest evidence kept as a group's example: an event shows 2 KiB of it.
  reason_most = 4096,
  -- When what was reported is reported again for the first time.
  remind_ms = 3600000,
  -- What no worker has reported for a week is forgotten: alerts are not configured.
  keep_ms = 7 * 86400000,
}
function ALERTS.group(group) return PREFIX .. 'alerts:group:' .. group end
function ALERTS.reported(group) return PREFIX .. 'alerts:reported:' .. group end

-- The earliest time at which a group may be reported. After a clock that has gone back a key lives longer than it was to.
function ALERTS.earliest(group)
  local left = redis.pcall('PTTL', ALERTS.reported(group))
  local window = tonumber(redis.pcall('GET', ALERTS.reported(group)) or nil) or math.huge
  return NOW_MS + (type(left) == 'number' and math.min(math.max(0, left), window) or 0)
end

function ALERTS.count_letter(id, job, kind, reason)
  local ok, why = pcall(cjson.decode, reason)
  why = ok and type(why) == 'table' and why or {}
  local failure = type(why.failure) == 'table' and why.failure or {}
  local last_body = type(why.bodies) == 'table' and why.bodies[#why.bodies] or {}
  local host = type(failure.host) == 'string' and failure.host
    or type(last_body.url) == 'string' and string.match(last_body.url, '^%w+://([^/:?#]+)')
  local group = 'letter:' .. kind .. ':' .. (type(why.stage) == 'string' and why.stage or '')
  local pending = ALERTS.group(group)
  if redis.pcall('HINCRBY', pending, 'count', 1) == 1 then
    local payload = redis.pcall('HGET', job, 'payload')
    local trace = type(payload) == 'string' and string.match(payload, '"traceparent":"([%x%-]+)"')
    redis.pcall('HSET', pending, 'first', id, 'first_ms', int(NOW_MS), 'trace', trace or '', 'pair',
      type(payload) == 'string' and pair_of(payload) or '', 'reason', #reason <= ALERTS.reason_most and reason or '')
    redis.pcall('PEXPIRE', pending, ALERTS.keep_ms)
    redis.pcall('ZADD', ALERTS.due, 'NX', ALERTS.earliest(group), group)
  end
  redis.pcall('HSET', pending, 'last', id, 'last_ms', int(NOW_MS))
  if type(host) == 'string' then
    local field = 'host:' .. host
    local named = redis.pcall('HEXISTS', pending, field) == 1
      or (tonumber(redis.pcall('HGET', pending, 'hosts') or 0) or 0) < ALERTS.hosts_most
    if redis.pcall('HINCRBY', pending, named and field or 'elsewhere', 1) == 1 and named then
      redis.pcall('HINCRBY', pending, 'hosts', 1)
    end
  end
  redis.pcall('HINCRBY', ALERTS.state, 'letters', 1)
end

-- Makes a job a dead letter. The caller has removed it from the set it was in.
local function bury(id, job, kind, reason, host, sentence, build)
  local known = redis.call('HMGET', job, 'bytes', 'operation', 'group', 'replays')
  record_replay(id, known[2], known[3], known[4], 'dead', kind)
  local group = GROUPS.name(kind, host)
  redis.call('HDEL', job, 'next', 'next_unique', 'bytes', 'operation', 'unedited')
  redis.call('HSET', job, 'state', 'dead', 'died_ms', int(NOW_MS), 'kind', kind, 'reason', reason, 'group', group)
  local size = bytes_of(job)
  redis.call('HSET', job, 'size', int(size))
  redis.call('ZADD', DEAD, NOW_MS, id)
  redis.call('ZADD', kind_key(kind), NOW_MS, id)
  redis.pcall('HINCRBY', META, 'dead_bytes:' .. kind, int(size))
  account('dead', 1, size)
  if known[1] then account('jobs', -1, -known[1]) end
  GROUPS.record_death(group, id, sentence or '', build or '')
  GROUPS.add(group, 'dead', 1)
  increment('dead')
  increment('dead:' .. kind)
  ALERTS.count_letter(id, job, kind, reason)
end

-- Removes a job from the dead letters. The caller passes the kind and size that it read from the job.
local function remove_dead_letter(id, kind, size)
  redis.call('EXISTS', kind_key(kind or '')) -- reads a derived key before the first write
  local group = redis.pcall('HGET', job_key(id), 'group')
  redis.call('ZREM', DEAD, id)
  redis.call('ZREM', kind_key(kind or ''), id)
  redis.pcall('HINCRBY', META, 'dead_bytes:' .. (kind or ''), -tonumber(size or 0))
  account('dead', -1, -tonumber(size or 0))
  if type(group) == 'string' then GROUPS.add(group, 'dead', -1) end
end
-- Puts a job back among the dead letters, as it died.
local function return_dead_letter(id, job, died_ms, kind)
  redis.call('HSET', job, 'state', 'dead')
  local size = bytes_of(job)
  redis.call('HSET', job, 'size', int(size))
  redis.call('ZADD', DEAD, died_ms, id)
  redis.call('ZADD', kind_key(kind), died_ms, id)
  redis.pcall('HINCRBY', META, 'dead_bytes:' .. kind, int(size))
  account('dead', 1, size)
  local group = redis.pcall('HGET', job, 'group')
  if type(group) == 'string' then GROUPS.add(group, 'dead', 1) end
end

-- Suspect contents, each with the build that it crashed; SUSPECTS, by time, bounds their number.
local function add_suspect(suspect, build)
  local before = bytes_of(suspect)
  redis.call('SET', suspect, build, 'PX', UNIQUE_MS)
  redis.pcall('ZADD', SUSPECTS, NOW_MS, suspect)
  account('suspects', 0, bytes_of(suspect) - before)
end
local function remove_suspect(suspect)
  local bytes = bytes_of(suspect)
  redis.call('DEL', suspect) -- allowed at maxmemory, and so is every later write
  account('suspects', 0, -bytes)
  redis.pcall('ZREM', SUSPECTS, suspect)
end

-- Pairs that were analysed, or skipped for good. A segment is 64 small hashes (`done:<segment>:<shard>`), which
-- Redis keeps packed: 10 bytes of a pair's SHA-256 -> '1' when its annotation was posted, '' when its report is the only
-- copy of the result and the mark counts only while that exists. Upkeep drops whole segments, oldest first.
local SEGMENT_SHARDS, SEGMENT_PAIRS = 64, 25000
local function shard_key(segment, name)
  return PREFIX .. 'done:' .. segment .. ':' .. string.byte(name) % SEGMENT_SHARDS
end
local segments
local function find_done(name)
  segments = segments or redis.call('ZREVRANGE', SEGMENTS, 0, -1)
  for _, segment in ipairs(segments) do
    local posted = redis.call('HGET', shard_key(segment, name), name)
    if posted then return posted, segment end
  end
end
local function is_done(name, pair)
  local posted = find_done(name)
  return posted == '1' or (posted == '' and rank(read_report(pair)) > 0)
end

-- Where to mark a pair as done. Only reads: call it before the first write, then `mark_done` with its result. A
-- segment holds SEGMENT_PAIRS marks, or those of a thirtieth of their life.
local open_segment
local function plan_mark(name)
  local _, segment = find_done(name)
  if not segment and not open_segment then
    local newest = redis.call('ZREVRANGE', SEGMENTS, 0, 0, 'WITHSCORES')
    local full = tonumber(redis.call('HGET', META, 'segment_count') or 0) >= SEGMENT_PAIRS
    local is_new = not newest[1] or full or NOW_MS - newest[2] > setting('done_ttl') / 30
    open_segment = { id = int(tonumber(newest[1] or 0) + (is_new and 1 or 0)), is_new = is_new }
  end
  local shard = shard_key(segment or open_segment.id, name)
  if not segment and open_segment.is_new then redis.call('EXISTS', shard) end -- `find_done` read that of every other
  return { name = name, shard = shard, added = segment and 0 or 1 }
end

local function mark_done(plan, posted)
  if plan.added == 1 then
    if open_segment.is_new then
      redis.call('ZADD', SEGMENTS, NOW_MS, open_segment.id)
      redis.call('HSET', META, 'segment_count', 0)
      open_segment.is_new = false
    end
    add_to(META, 'segment_count', 1)
  end
  local before = bytes_of(plan.shard)
  redis.call('HSET', plan.shard, plan.name, posted)
  if before == 0 then redis.call('PEXPIRE', plan.shard, int(2 * setting('done_ttl'))) end -- only a backstop
  account('done', plan.added, bytes_of(plan.shard) - before)
end
