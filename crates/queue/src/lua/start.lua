-- Lets a delivery go on to the hosts of its versions, now that they are known.
-- KEYS     1 job:<id>, 2 suspect:<content>, then host:<host> per host
-- ARGV     1 id, 2 token, 3 content, 4 our build, then the hosts
-- Returns  entered | lost | suspect (this content crashed a worker before: not beside others) | full, host
-- Why      The job must stand there with its content before it runs: whoever takes over its lease says by it what the
--          worker died of. Permits are taken at all its hosts or at none, or two jobs could wait for each other.
-- Bound    one job, and as many hosts as are given (a pair has at most two).
local id, token, content, build = arg(1), arg(2), arg(3), arg(4)
local job, suspect = key(1), key(2)

-- Releases are compared by their three numbers: with a newer one the old suspicion is over.
local function release(text)
  local major, minor, patch = string.match(text, '^(%d+)%.(%d+)%.(%d+)')
  return major and (major * 1e6 + minor) * 1e6 + patch or 0
end

local j = redis.call('HMGET', job, 'token', 'worker')
if j[1] ~= token then return { 'lost' } end
local exclusively = redis.call('GET', EXCLUSIVE_LOCK) == (j[2] or '') .. '|' .. id
local suspected_by = redis.call('GET', suspect)
local outdated = suspected_by and release(build) > release(suspected_by)
local hosts, full = {}, nil
for i = 1, #KEYS - 15 do
  hosts[i] = arg(4 + i)
  if not full and not host_has_room(hosts[i], id) then full = hosts[i] end
end

redis.call('ZREM', LEASE, id) -- a write that is allowed at maxmemory, so that the next one is too
redis.call('ZADD', LEASE, NOW + LEASE_MS, id)
redis.call('HSET', job, 'content', content, 'build', build, 'hosts', table.concat(hosts, ' '))
if outdated then
  redis.call('DEL', suspect)
elseif suspected_by and not exclusively then
  redis.call('HSET', job, 'suspect', '1')
  return { 'suspect' }
end
if full then return { 'full', full } end
for i = 1, #hosts do redis.call('SADD', key(2 + i), id) end
redis.call('HSET', job, 'started', token)
return { 'started' }
