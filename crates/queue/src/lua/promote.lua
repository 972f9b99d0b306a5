-- Moves scheduled jobs that are due to ready or exclusive.
-- KEYS     none of its own; job:<id> is derived from the ids that are due
-- ARGV     1 most jobs
-- Returns  jobs looked at, jobs now claimable
-- Why      A job in neither scheduled nor ready would be lost. A job whose host is still full is scheduled
--          again, as it would be claimed only to wait again; a cancelled or expired job does not wait for its
--          host. A job that failed or was postponed goes behind the newest jobs (make_waiting); one that was
--          scheduled by its producer, or waited for its host, to its old place. At a host that is half open not the
--          job that is due is woken but the first that waits: one whose own address fails must not be every probe.
--          A job older than a week does not wait for a breaker.
-- Bound    as many as requested (Rust requests 200), and one waiter of each host that is half open.
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', NOW_MS, 'LIMIT', 0, arg(1))
local promoted, woken = 0, {}

-- Whether a job that waits for `host` may go on, and the waiter to wake in its place.
local function recheck(host, id, hosts, enqueued_ms)
  if is_share(host) and not has_new(hosts or '') then return true end
  local ends = not is_share(host) and rest_end(host)
  if ends and score_of(HOSTS.resting, host) and tonumber(enqueued_ms or NOW_MS) <= NOW_MS - HOSTS.wait_ms then return true end
  if not host_has_room(host, id, woken[host]) then return false end
  local first = ends and first_waiters(host, 1)[1] or id
  return first == id, first ~= id and first or nil
end

for _, id in ipairs(due) do
  local job = job_key(id)
  local fields = redis.call('HMGET', job, 'payload', 'waits_for_host', 'cancel', 'expires_ms', 'hosts', 'enqueued_ms')
  local recheck_ms = fields[2] and recheck_host_at(fields[2]) -- reads the host waiters before the first write
  local unwanted = fields[3] or (fields[4] and tonumber(fields[4]) < NOW_MS)
  local goes_on, in_its_place = true, nil
  if fields[2] and not unwanted then goes_on, in_its_place = recheck(fields[2], id, fields[5], fields[6]) end
  local was_scheduled = redis.call('ZREM', SCHEDULED, id) == 1
  if in_its_place then
    wake_waiter(fields[2], in_its_place)
    count_host_waiters(fields[2])
    promoted = promoted + 1
  end
  if fields[2] and (goes_on or in_its_place) then woken[fields[2]] = (woken[fields[2]] or 0) + 1 end
  if was_scheduled and not goes_on then
    redis.call('ZADD', SCHEDULED, recheck_ms, id)
  elseif was_scheduled and fields[1] then -- not woken above, in the place of another one
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
