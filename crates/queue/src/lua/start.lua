-- Starts a delivery once its versions are known: records its content, and takes start permits at its hosts.
-- KEYS     1 job:<id>, 2 suspect:<content>, then host:<host> per host
-- ARGV     1 id, 2 token, 3 content, 4 this build, then the hosts
-- Returns  started | lost | suspect (this content crashed a worker before: must run exclusively) | full, host
-- Why      The content is stored before the job runs: reclaim.lua blames it when the lease expires. Permits
--          are taken at all hosts or at none, or two jobs could wait for each other. Always renews the lease,
--          unless lost.
-- Bound    one job, and as many hosts as are given (a pair has at most two). At maxmemory: 1 KiB, until the job is
--          settled.
local id, token, content, build = arg(1), arg(2), arg(3), arg(4)
local job, suspect = key(1), key(2)

-- A version as one comparable number. A newer build than the one that crashed clears the suspicion.
local function release_number(text)
  local major, minor, patch = string.match(text, '^(%d+)%.(%d+)%.(%d+)')
  return major and (major * 1e6 + minor) * 1e6 + patch or 0
end

local fields = redis.call('HMGET', job, 'token', 'worker')
if fields[1] ~= token then return { 'lost' } end
local exclusive = redis.call('GET', EXCLUSIVE_LOCK) == (fields[2] or '') .. '|' .. id
local suspected_by = redis.call('GET', suspect)
local suspicion_outdated = suspected_by and release_number(build) > release_number(suspected_by)
local hosts, full_host = {}, nil
for i = 1, #KEYS - FIXED - 2 do
  hosts[i] = arg(4 + i)
  if not full_host and not host_has_room(hosts[i], id) then full_host = hosts[i] end
end

redis.call('ZREM', LEASE, id) -- allowed at maxmemory, and so is every later write
redis.call('ZADD', LEASE, NOW_MS + LEASE_MS, id)
redis.call('HSET', job, 'content', content, 'build', build, 'hosts', table.concat(hosts, ' '))
if suspicion_outdated then
  remove_suspect(suspect)
elseif suspected_by and not exclusive then
  redis.call('HSET', job, 'suspect', '1')
  return { 'suspect' }
end
if full_host then return { 'full', full_host } end
for i = 1, #hosts do redis.call('SADD', key(2 + i), id) end
redis.call('HSET', job, 'started', token)
return { 'started' }
