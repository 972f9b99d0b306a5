-- A worker's sign of life: renews all its leases and says what it runs.
-- KEYS     1 workers, 2 worker:<id>
-- ARGV     1 worker, 2 how long its entry lives in ms, 3 number of leases, then id and token of each;
--          then field and value of its entry, alternating
-- Returns  per lease that is not simply held: id, lost|cancelled
-- Why      One round trip for all leases, and one moment for all of them.
-- Bound    as many leases as are given (Rust gives at most 500); at most 100 workers long gone are forgotten.
local worker, entry_ms, leases = arg(1), arg(2), tonumber(arg(3))
local answers = {}

-- The first write removes, so that beating works at maxmemory.
local gone = redis.call('ZRANGEBYSCORE', key(1), '-inf', NOW - tonumber(entry_ms), 'LIMIT', 0, 100)
redis.call('ZREM', key(1), worker, unpack(gone))

local exclusive = redis.call('GET', EXCLUSIVE_LOCK)
for i = 0, leases - 1 do
  local id, token = arg(4 + i * 2), arg(5 + i * 2)
  local j = redis.call('HMGET', job_key(id), 'token', 'cancel')
  if j[1] ~= token then
    answers[#answers + 1] = id
    answers[#answers + 1] = 'lost'
  else
    redis.call('ZADD', LEASE, 'XX', NOW + LEASE_MS, id)
    if exclusive == worker .. '|' .. id then redis.call('PEXPIRE', EXCLUSIVE_LOCK, LEASE_MS) end
    if j[2] then
      answers[#answers + 1] = id
      answers[#answers + 1] = 'cancelled'
    end
  end
end

redis.call('ZADD', key(1), NOW, worker)
redis.call('HSET', key(2), 'heartbeat_ms', int(NOW), unpack(ARGV, 5 + 4 + leases * 2))
redis.call('PEXPIRE', key(2), entry_ms)
return answers
