-- A worker's heartbeat: renews its leases and updates its status entry.
-- KEYS     1 workers, 2 worker:<id>
-- ARGV     1 worker, 2 life of its entry in ms, 3 number of leases, then id and token of each; then the
--          entry's fields and values, alternating
-- Returns  what an operator asks of it (quiet, stop, '' nothing); then per lease that is lost or whose job was cancelled: id, lost|cancelled
-- Why      One round trip renews all leases at the same moment. The worker's own entry is a hint: its failure (a key
--          of another type) never keeps a lease from its renewal.
-- Bound    as many leases as are given (Rust gives at most 500). At maxmemory: one entry, at most 32 KiB.
local worker, entry_ttl_ms, leases = arg(1), arg(2), tonumber(arg(3))
local replies = {}
local asked = redis.pcall('HGET', key(2), 'asked')
replies[1] = type(asked) == 'string' and asked or ''

-- The first write is one that Redis allows at maxmemory, so heartbeats work on a full Redis.
local known = redis.call('PEXPIRE', key(2), entry_ttl_ms) == 1
local lock = leases > 0 and redis.call('GET', EXCLUSIVE_LOCK)
for i = 0, leases - 1 do
  local id, token = arg(4 + i * 2), arg(5 + i * 2)
  local fields = redis.call('HMGET', job_key(id), 'token', 'cancel')
  if fields[1] ~= token then
    replies[#replies + 1] = id
    replies[#replies + 1] = 'lost'
  else
    redis.call('ZADD', LEASE, 'XX', NOW_MS + LEASE_MS, id)
    if runs_exclusively(lock, id) then redis.call('PEXPIRE', EXCLUSIVE_LOCK, LEASE_MS) end
    if fields[2] then
      replies[#replies + 1] = id
      replies[#replies + 1] = 'cancelled'
    end
  end
end

redis.pcall('ZADD', key(1), NOW_MS, worker)
redis.pcall('HSET', key(2), 'heartbeat_ms', int(NOW_MS), unpack(ARGV, 3 + 4 + leases * 2))
if not known then redis.pcall('PEXPIRE', key(2), entry_ttl_ms) end
return replies
