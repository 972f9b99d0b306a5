-- Moves scheduled jobs that are due to ready or exclusive.
-- KEYS     none of its own; job:<id> is derived from the ids that are due
-- ARGV     1 most jobs
-- Returns  jobs looked at, jobs now claimable
-- Why      A job in neither scheduled nor ready would be lost. A job whose host is still full is scheduled
--          again, as it would be claimed only to wait again; a cancelled or expired job does not wait for its
--          host. A job that failed or was postponed goes behind the newest jobs (make_waiting); one that was
--          scheduled by its producer, or waited for its host, to its old place.
-- Bound    as many as requested (Rust requests 200).
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', NOW_MS, 'LIMIT', 0, arg(1))
local promoted = 0
for _, id in ipairs(due) do
  local job = job_key(id)
  local fields = redis.call('HMGET', job, 'payload', 'waits_for_host', 'cancel', 'expires_ms')
  local recheck_ms = fields[2] and recheck_host_at(fields[2]) -- reads the host waiters before the first write
  local unwanted = fields[3] or (fields[4] and tonumber(fields[4]) < NOW_MS)
  local host_still_full = fields[2] and not unwanted and not host_has_room(fields[2], id)
  redis.call('ZREM', SCHEDULED, id)
  if host_still_full then
    redis.call('ZADD', SCHEDULED, recheck_ms, id)
  elseif fields[1] then
    if fields[2] then
      redis.call('ZREM', host_waiters_key(fields[2]), id)
      count_host_waiters(fields[2])
      redis.call('HDEL', job, 'waits_for_host')
    end
    make_waiting(id, job)
    promoted = promoted + 1
  end
end
if promoted > 0 then wake() end
return { int(#due), int(promoted) }
