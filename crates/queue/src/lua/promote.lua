-- Moves jobs whose time has come from scheduled to where they wait.
-- KEYS     none of its own; job:<id> follows from what is due
-- ARGV     1 how many at most
-- Returns  how many were looked at, how many of them wait now where they can be claimed
-- Why      A job that is neither scheduled nor ready is lost. One that waits for a host that is still full would be claimed
--          only to be handed back; nobody waits for a host who is cancelled or too late.
-- Bound    as many as asked for (Rust asks for 200).
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', NOW, 'LIMIT', 0, arg(1))
local promoted = 0
for _, id in ipairs(due) do
  local job = job_key(id)
  local j = redis.call('HMGET', job, 'payload', 'waits_for_host', 'cancel', 'expires_ms')
  local later = j[2] and recheck_host_at(j[2]) -- touches the line before the first write
  local over = j[3] or (j[4] and tonumber(j[4]) < NOW)
  local waits = j[2] and not over and not host_has_room(j[2], id)
  redis.call('ZREM', SCHEDULED, id)
  if waits then
    redis.call('ZADD', SCHEDULED, later, id)
  elseif j[1] then
    if j[2] then
      redis.call('ZREM', host_waiters_key(j[2]), id)
      count_host_waiters(j[2])
      redis.call('HDEL', job, 'waits_for_host')
    end
    make_waiting(id, job)
    promoted = promoted + 1
  end
end
if promoted > 0 then wake() end
return { int(#due), int(promoted) }
