-- Starts deliveries once their versions are known: records each content, and takes start permits at the hosts.
-- KEYS     per job: job:<id>, suspect:<content>, then host:<host> per host
-- ARGV     1 this build, 2 most jobs at new hosts that one worker has in flight (0 any number); then per job: id,
--          token, content, 1 when it needs no follow-up job (its pair is the one that this would compare), number of
--          hosts, then its hosts
-- Returns  per job: started | lost | suspect (this content crashed a worker before: must run exclusively) | full and
--          the host | failing, the host and the kind of its last failure (its breaker is open, and the job has
--          waited for it for a week: to be settled as failed by that)
-- Why      The content is stored before the job runs: reclaim.lua blames it once the job was in a child. Permits
--          are taken at all hosts or at none, or two jobs could wait for each other. Always renews the lease,
--          unless lost. Batched, because the call costs Redis more than the job; each job is judged separately,
--          all before the first write, and sees the permits that those before it in the call are granted.
-- Bound    as many jobs as are given (Rust gives at most 100), and as many hosts as each has (a pair has at most
--          two). At maxmemory: 1 KiB for each job, until it is settled.
local build, new_max, lock = arg(1), arg(2), redis.call('GET', EXCLUSIVE_LOCK)
local replies, jobs, lease_ids, granted = {}, {}, {}, {}

-- A version as one comparable number. A newer build than the one that crashed clears the suspicion.
local function release_number(text)
  local major, minor, patch = string.match(text, '^(%d+)%.(%d+)%.(%d+)')
  return major and (major * 1e6 + minor) * 1e6 + patch or 0
end

-- Judges one job, and counts the permits that it is granted. Only reads.
local function judge(one)
  local suspected_by = redis.call('GET', one.suspect)
  one.clears = suspected_by and release_number(build) > release_number(suspected_by)
  local alone = lock and string.match(lock, '|(.*)$') == one.id -- not merely in a group
  if suspected_by and not one.clears and not alone then return 'suspect' end
  if new_max ~= '0' and has_new(table.concat(one.hosts, ' ')) then
    one.hosts[#one.hosts + 1] = share_of_new(one.worker, new_max)
  end
  local is_member = {}
  for i, host in ipairs(one.hosts) do
    local has_room
    has_room, is_member[i] = host_has_room(host, one.id, granted[host])
    if not has_room then
      if one.enqueued_ms > NOW_MS - HOSTS.wait_ms or not score_of(HOSTS.resting, host) then return 'full', host end
      return 'failing', host, json_of(HOSTS.breakers, host).kind or 'connect'
    end
  end
  for i, host in ipairs(one.hosts) do granted[host] = (granted[host] or 0) + 1 - is_member[i] end
  return 'started'
end

local k, a = 0, 2
while k < #KEYS - FIXED do
  local one = { id = arg(a + 1), content = arg(a + 3), hosts = {}, job = key(k + 1), suspect = key(k + 2) }
  local token, count = arg(a + 2), tonumber(arg(a + 5))
  one.without_follow_up = arg(a + 4) == '1'
  for i = 1, count do one.hosts[i] = arg(a + 5 + i) end
  k, a = k + 2 + count, a + 5 + count
  local fields, host, kind = redis.call('HMGET', one.job, 'token', 'worker', 'enqueued_ms'), nil, nil
  if fields[1] == token then
    one.worker, one.enqueued_ms = fields[2] or '', tonumber(fields[3] or NOW_MS)
    one.reply, host, kind = judge(one)
    jobs[#jobs + 1] = one
    lease_ids[#lease_ids + 1] = one.id
  end
  replies[#replies + 1] = one.reply or 'lost'
  replies[#replies + 1] = host
  replies[#replies + 1] = kind
end
if not jobs[1] then return replies end

redis.call('ZREM', LEASE, unpack(lease_ids)) -- allowed at maxmemory, and so is every later write
set_leases(lease_ids)
for _, one in ipairs(jobs) do
  redis.call('HSET', one.job, 'content', one.content, 'build', build, 'hosts', table.concat(one.hosts, ' '))
  if one.without_follow_up then redis.call('HDEL', one.job, 'next', 'next_unique') end
  if one.clears then remove_suspect(one.suspect) end
  if one.reply == 'suspect' then redis.call('HSET', one.job, 'suspect', '1') end
  if one.reply == 'started' then
    for _, host in ipairs(one.hosts) do redis.call('SADD', host_permits_key(host), one.id) end
  end
end
return replies
