-- Records that a host failed, before the delivery that failed at it is settled. Where the host rests now, settles it:
-- the job waits for the host, and nothing is counted.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 host, 4 kind of the failure, 5 the failure (JSON), 6 pause that the host asked for in ms,
--          7 priority offset, 8 counter to increment in today's stats
-- Returns  counted (settle it as it was judged) | settled (before, and the reply was lost) | waits | superseded
-- Why      Its failures in a row open the breaker of a host, each once: `host_failed` holds the token of the delivery
--          whose failure was recorded. From at least three jobs, because one address that always fails says nothing
--          of its host. Only where the job has a start permit at the host: where it was redirected to another one,
--          no start would ask for that one's rest. A job that was the probe goes to the end of the line, so that the
--          next probe is another one. A job older than a week is counted all the same, so that it ends.
-- Bound    one job, the host waiters woken at its hosts, and one failed host that is forgotten. At maxmemory: 300 bytes
--          for each host, at most 10,000 hosts.
local id, token, host, kind, asked_ms = arg(1), arg(2), arg(3), arg(4), tonumber(arg(6))
local job, full = key(1), is_full()
local JOBS_MIN = 3
-- The longest pause that a host may ask for: what it fails with by then is another outage.
local ASKED_MAX_MS = 3600000

local fields = redis.call('HMGET', job, 'token', 'enqueued_ms', 'unique', 'host_failed', 'waits_for_host', 'score')
if fields[1] ~= token then
  if not was_settled(id, token) then return { 'superseded' } end
  return { fields[5] == host and 'waits' or 'settled' }
end
local most = setting('host_failures_max')
if most == 0 or redis.call('SISMEMBER', host_permits_key(host), id) == 0 then return { 'counted' } end

local breaker, ends = json_of(HOSTS.breakers, host), score_of(HOSTS.resting, host)
local is_repeated = fields[4] == token
if not is_repeated then
  local jobs, is_known = type(breaker.jobs) == 'table' and breaker.jobs or {}, false
  for _, known in ipairs(jobs) do is_known = is_known or known == id end
  if not is_known and #jobs < JOBS_MIN then jobs[#jobs + 1] = id end
  local failures, rest_ms = (tonumber(breaker.failures) or 0) + 1, tonumber(breaker.rest_ms) or 0
  asked_ms = math.min(asked_ms, ASKED_MAX_MS)
  if ends and ends <= NOW_MS then -- a probe, or a visit that began before the rest did
    rest_ms = math.min(rest_ms * 2, setting('host_rest_max'))
    ends = NOW_MS + math.max(rest_ms, asked_ms)
  elseif ends then
    ends = math.max(ends, NOW_MS + asked_ms)
  elseif failures >= most and #jobs >= JOBS_MIN then
    rest_ms = setting('host_rest')
    ends = NOW_MS + math.max(rest_ms, asked_ms)
  end
  -- A host that is held stays so until a page of it lives.
  local is_held = ends and breaker.kind == 'quarantine'
  breaker = { failures = failures, jobs = jobs, kind = is_held and 'quarantine' or kind, rest_ms = rest_ms }
  rest_ends[host] = ends and math.max(ends, end_by_hand(host) or 0) or rest_end(host) or false
end

local function record()
  redis.pcall('HDEL', HOSTS.breakers, host) -- allowed at maxmemory, and so is every later write
  redis.pcall('HSET', HOSTS.breakers, host, cjson.encode(breaker))
  redis.pcall('ZADD', HOSTS.failed, NOW_MS, host)
  if ends then redis.pcall('ZADD', HOSTS.resting, int(ends), host) end
  forget_failed_hosts(1)
end

local is_old = tonumber(fields[2] or NOW_MS) <= NOW_MS - HOSTS.wait_ms
if not ends or is_old then
  if not is_repeated then
    record()
    redis.call('HSET', job, 'host_failed', token)
  end
  return { 'counted' }
end

local unique, waiters = PREFIX .. 'unique:' .. (fields[3] or ''), host_waiters_key(host)
local last = redis.call('ZREVRANGE', waiters, 0, 0, 'WITHSCORES')
redis.call('EXISTS', unique, WAITING_HOSTS) -- reads derived keys before the first write
local ended = end_delivery(id, job, token)
if ended ~= 'ended' then return { ended } end
if not is_repeated then record() end
redis.call('HDEL', job, 'host_failed')
redis.call('HINCRBY', job, 'deliveries', -1)
redis.call('HSET', job, 'state', 'scheduled', 'waits_for_host', host, 'priority_offset', arg(7))
if not full then redis.call('HSET', job, 'last_failure', arg(5)) end
redis.call('ZADD', SCHEDULED, int(rest_end(host)), id)
redis.call('ZADD', waiters, int(math.max(tonumber(last[2] or 0) + 1, tonumber(fields[6] or 0))), id)
redis.pcall('ZADD', WAITING, fields[2] or NOW_MS, id)
count_host_waiters(host)
recount_job(job, unique)
increment(arg(8))
return { 'waits' }
