-- The reply that all scripts share; scripts.rs puts this page in front of each of them.
-- KEYS     1-13: every fixed key of the queue, in the order below (keys.rs, `fixed`). A script's own begin after them.
-- ARGV     1 key prefix, 2 events kept, 3 lease in ms, 4 releases that make a job a suspect, 5 most jobs at one host (0: any
--          number). A script's own begin after.
-- Returns  nothing: these are local functions. Numbers are answered as strings, so that every reply is one list.
-- Why      A script does not roll back: whoever calls these has read and judged everything before the first write.
-- Bound    each function touches one job.
local INBOX, READY, SCHEDULED, LEASE, EXCLUSIVE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local EXCLUSIVE_LOCK, DEAD, PAUSED, WAKE = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local EVENTS, STATS, META, SEQ = KEYS[10], KEYS[11], KEYS[12], KEYS[13]
local PREFIX, EVENTS_MAX = ARGV[1], ARGV[2]
local LEASE_MS, RELEASES_EXCLUSIVE, HOST_MAX = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local UNIQUE_MS, SUSPECT_MS, STATS_SECONDS = 30 * 86400000, 30 * 86400000, 90 * 86400

local function key(i) return KEYS[13 + i] end
local function arg(i) return ARGV[5 + i] end
local function int(n) return string.format('%.0f', n) end
local function job_key(id) return PREFIX .. 'job:' .. id end
local function kind_key(kind) return PREFIX .. 'dead:kind:' .. kind end
local function suspect_key(content) return PREFIX .. 'suspect:' .. content end
local function host_key(host) return PREFIX .. 'host:' .. host end
local function host_waiters_key(host) return PREFIX .. 'host_waiters:' .. host end

-- Every deadline is the server's: one clock for all workers.
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- Counters and events are hints. They never fail what is true, hence pcall.
local function count(field, by)
  by = by or 1
  if redis.pcall('HINCRBY', STATS, field, by) == by then redis.pcall('EXPIRE', STATS, STATS_SECONDS) end
end

local function event(type, id, pair, why)
  local from, to = string.match(pair or '', '^(.-)%.%.(.*)$')
  redis.pcall('XADD', EVENTS, 'MAXLEN', '~', EVENTS_MAX, '*',
    'type', type, 'id', id, 'from', from or '', 'to', to or '', 'why', why or '')
end

-- At most one token: a hint that there is something to claim, never the thing itself.
local function wake()
  if redis.call('LLEN', WAKE) == 0 then redis.call('LPUSH', WAKE, '1') end
end

-- The pair in reply, from a stored payload; only where an event needs it and the caller does not have it.
local function pair_of(payload)
  local ok, job = pcall(cjson.decode, payload or '')
  if not ok or type(job) ~= 'table' then return '' end
  local function uuid(ref)
    if type(ref) == 'table' then ref = ref.uuid end
    return type(ref) == 'string' and ref or ''
  end
  return uuid(job.from) .. '..' .. uuid(job.to)
end

-- A lock names its holder, and holds only while that job is live.
local LIVE = { ready = true, scheduled = true, in_flight = true, exclusive = true }
local function live_holder(unique)
  local holder = redis.call('GET', unique)
  if not holder then return nil end
  local state = redis.call('HGET', job_key(holder), 'state')
  return state and LIVE[state] and holder or nil
end

-- Leaving the live states gives the lock back, unless somebody else has it by now.
local function unlock(unique, id)
  if redis.call('GET', unique) == id then redis.call('DEL', unique) end
end

-- Makes a job and puts it where it waits. The caller has seen that nobody has its id or its lock.
local function insert_job(id, unique, payload, score, expires, run_at)
  local later = run_at ~= '' and tonumber(run_at) > NOW
  redis.call('HSET', job_key(id), 'payload', payload, 'state', later and 'scheduled' or 'ready', 'score', int(score),
    'enqueued_ms', int(NOW), 'unique', string.sub(unique, -64))
  if expires ~= '' then redis.call('HSET', job_key(id), 'expires_ms', expires) end
  if later then
    redis.call('ZADD', SCHEDULED, run_at, id)
    redis.call('SET', unique, id, 'PX', int(UNIQUE_MS + run_at - NOW))
  else
    redis.call('ZADD', READY, score, id)
    redis.call('SET', unique, id, 'PX', UNIQUE_MS)
  end
  count('admitted')
end

-- What is to follow a job once it has ended, read before the first write; nil where nothing is, or nothing any more.
local function follow_up_of(id, job)
  local j = redis.call('HMGET', job, 'next', 'next_unique', 'score', 'expires_ms')
  if not j[1] then return nil end
  local next = { id = id .. '.earliest', payload = j[1], unique = PREFIX .. 'unique:' .. j[2], score = j[3] or 0,
    expires = j[4] or '' }
  next.known = redis.call('EXISTS', job_key(next.id)) == 1 and 'same_id'
  live_holder(next.unique) -- every key that `follow` looks at is looked at before the first write
  return next
end

-- Lets it in, after the first write: a full Redis or a full backlog must not lose it, and it takes the place of a job
-- that has just left. Its place in the order is that job's own. Whether its pair is live is asked only now: another
-- one of the same batch may have been followed by it.
local function admit_follow_up(next, pair)
  if not next then return end
  local holder = live_holder(next.unique)
  if next.known or holder then
    count(next.known or 'duplicate')
    event('duplicate', next.id, 'earliest' .. (string.match(pair, '%.%..*') or '..'), holder or next.known)
    return
  end
  insert_job(next.id, next.unique, next.payload, tonumber(next.score), next.expires, '')
  wake()
end

-- Where a job waits: a suspect for its exclusive exclusively, everything else at its old place in the order.
local function make_waiting(id, job)
  local j = redis.call('HMGET', job, 'crashes', 'releases', 'score', 'suspect')
  if tonumber(j[1] or 0) > 0 or tonumber(j[2] or 0) >= RELEASES_EXCLUSIVE or j[4] then
    redis.call('ZADD', EXCLUSIVE, NOW, id)
    redis.call('HSET', job, 'state', 'exclusive')
  else
    redis.call('ZADD', READY, j[3] or 0, id)
    redis.call('HSET', job, 'state', 'ready')
  end
end

-- A permit for a host is an index of `lease`: `enter` writes it, every way out of `lease` takes it away. So it lives as
-- long as the lease does, and needs no renewing of its own. Who finds a host full is `scheduled` like any job that
-- waits; `line:<host>` only says in which order they are called, one for each permit that comes free.
local function host_has_room(host, id)
  if HOST_MAX == 0 then return true end
  return redis.call('SCARD', host_key(host)) - redis.call('SISMEMBER', host_key(host), id) < HOST_MAX
end

-- How long each line is, for whoever looks. To be read before the first write wherever a line is changed.
local WAITING_HOSTS = PREFIX .. 'waiting_hosts'
local function count_host_waiters(host)
  local waiting = redis.call('ZCARD', host_waiters_key(host))
  if waiting > 0 then redis.call('ZADD', WAITING_HOSTS, waiting, host) else redis.call('ZREM', WAITING_HOSTS, host) end
end

-- When who waits in a line is looked at without having been called: at most a hundred a second, however long the line.
local function recheck_host_at(host)
  redis.call('EXISTS', WAITING_HOSTS)
  return NOW + math.max(30000, redis.call('ZCARD', host_waiters_key(host)) * 10)
end

-- Who is called when these leave their hosts; each of them is an id and its hosts. It only reads: to be asked before the
-- first write. Whoever is called and does not go in, for whatever reason, calls the next one when its own delivery
-- ends: no permit is left lying about.
local function plan_host_handover(leaving)
  local calls, at = {}, {}
  for _, leaver in ipairs(leaving) do
    for host in string.gmatch(leaver.hosts or '', '%S+') do
      if not at[host] then
        at[host] = { host = host, leavers = {}, passed = 0, called = {} }
        calls[#calls + 1] = at[host]
      end
      table.insert(at[host].leavers, leaver.id)
    end
  end
  for _, call in ipairs(calls) do
    local stay = redis.call('SCARD', host_key(call.host))
    for _, inside in ipairs(redis.call('SMISMEMBER', host_key(call.host), unpack(call.leavers))) do stay = stay - inside end
    local room = HOST_MAX == 0 and #call.leavers or math.min(#call.leavers, HOST_MAX - stay)
    for i, waiting in ipairs(room > 0 and redis.call('ZRANGE', host_waiters_key(call.host), 0, room + 19) or {}) do
      if #call.called == room then break end
      call.passed = i
      if redis.call('HGET', job_key(waiting), 'waits_for_host') == call.host then table.insert(call.called, waiting) end
    end
    if call.passed > 0 then redis.call('EXISTS', WAITING_HOSTS) end
  end
  return calls
end

local function leave_hosts(calls)
  for _, call in ipairs(calls) do
    redis.call('SREM', host_key(call.host), unpack(call.leavers))
    if call.passed > 0 then
      redis.call('ZREMRANGEBYRANK', host_waiters_key(call.host), 0, call.passed - 1)
      count_host_waiters(call.host)
    end
    for _, id in ipairs(call.called) do
      redis.call('HDEL', job_key(id), 'waits_for_host')
      redis.call('ZREM', SCHEDULED, id)
      make_waiting(id, job_key(id))
    end
    if call.called[1] then wake() end
  end
end

-- After a suspect has run, its worker owes the others as long again: suspects get at most half of one worker.
local function end_exclusive(id, claimed_ms)
  local exclusive = redis.call('GET', EXCLUSIVE_LOCK)
  if not exclusive or string.sub(exclusive, -(#id + 1)) ~= '|' .. id then return end
  redis.call('DEL', EXCLUSIVE_LOCK)
  local took = math.max(0, NOW - tonumber(claimed_ms or NOW))
  redis.call('HSET', META, 'exclusive_rest_until_ms', int(NOW + math.min(took, LEASE_MS)))
end

-- Ends the delivery of `id` if `token` still holds it: 'ended', 'settled' (by this very token before: an answer that
-- was lost) or 'superseded'. The first write is ZREM, which Redis allows at maxmemory, and everything after it too.
local function end_delivery(id, job, token)
  local j = redis.call('HMGET', job, 'token', 'claimed_ms', 'settled', 'hosts')
  if j[1] ~= token then return j[3] == token and 'settled' or 'superseded' end
  local calls = plan_host_handover({ { id = id, hosts = j[4] } })
  redis.call('ZREM', LEASE, id)
  leave_hosts(calls)
  redis.call('HDEL', job, 'token')
  redis.call('HSET', job, 'settled', token)
  end_exclusive(id, j[2])
  return 'ended'
end

-- Puts a job among the dead letters. The caller has taken it out of wherever it was.
local function bury(id, job, kind, reason, size)
  redis.call('HDEL', job, 'next', 'next_unique')
  redis.call('HSET', job, 'state', 'dead', 'died_ms', int(NOW), 'kind', kind, 'reason', reason, 'size', int(size))
  redis.call('ZADD', DEAD, NOW, id)
  redis.call('ZADD', kind_key(kind), NOW, id)
  redis.call('HINCRBY', META, 'dead_bytes', size)
  count('dead')
  count('dead:' .. kind)
end

-- Takes a job out of the dead letters; kind and size were read beforehand.
local function remove_dead_letter(id, kind, size)
  redis.call('EXISTS', kind_key(kind or '')) -- a derived key is touched before the first write
  redis.call('ZREM', DEAD, id)
  redis.call('ZREM', kind_key(kind or ''), id)
  redis.call('HINCRBY', META, 'dead_bytes', -tonumber(size or 0))
end
