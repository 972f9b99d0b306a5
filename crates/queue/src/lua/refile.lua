-- Puts jobs that stand in no index back into one, and removes index entries that have no job.
-- KEYS     1 the index that the ids come from
-- ARGV     1 1 when they come from there, '' when they come from the jobs' own keys; then the ids
-- Returns  jobs put back, entries removed, jobs removed because another job for the pair is live; live jobs seen, and
--          their bytes
-- Why      Index and hash can part only by a hand (DEL of an index) or a server's loss. A job in no index would
--          never run, its lock would hold its pair for a month. A job in flight loses its token and its start
--          permits: its old delivery can no longer settle. A scheduled job keeps its time. What is in no index is still
--          counted, so nothing is counted here; what disagrees after a search is counted anew (orphans.lua).
-- Bound    as many as given (Rust gives at most 1,000).
local refiled, removed, duplicates, live, live_bytes = 0, 0, 0, 0, 0
local function is_filed(id)
  for _, index in pairs(INDEX_OF) do
    if redis.call('ZSCORE', index, id) then return true end
  end
end

local function refile_live(id, job, unique, fields)
  local holder, bytes = live_holder(unique), tonumber(fields[7] or 0)
  local handovers, waits_for = plan_host_handover({ { id = id, hosts = fields[6] } }), fields[8]
  if waits_for then recheck_host_at(waits_for) end -- reads the host waiters before the first write
  redis.call('HDEL', job, 'token', 'waits_for_host') -- allowed at maxmemory, and so is every later write
  leave_hosts(handovers)
  if waits_for then
    redis.call('ZREM', host_waiters_key(waits_for), id)
    count_host_waiters(waits_for)
  end
  if holder and holder ~= id then
    redis.call('UNLINK', job)
    redis.pcall('ZREM', WAITING, id)
    account('jobs', -1, -bytes)
    emit_event('duplicate', id, '', holder)
    duplicates = duplicates + 1
    return
  end
  -- The time of a job that waits for its host is only that of its next check.
  local run_at = fields[1] == 'scheduled' and not waits_for and tonumber(fields[9] or 0) or 0
  redis.call('SET', unique, id, 'PX', int(UNIQUE_MS + math.max(0, run_at - NOW_MS)))
  if run_at > NOW_MS then
    redis.call('ZADD', SCHEDULED, int(run_at), id)
  else
    make_waiting(id, job)
  end
  recount_job(job, unique)
  emit_event('refiled', id, '', '')
  refiled = refiled + 1
end

for i = 2, #ARGV - 3 do
  local id, job = arg(i), job_key(arg(i))
  local fields = redis.call('HMGET', job, 'state', 'payload', 'unique', 'died_ms', 'kind', 'hosts', 'bytes',
    'waits_for_host', 'run_at_ms')
  if arg(1) ~= '' then
    if not fields[1] then
      redis.call('ZREM', key(1), id)
      removed = removed + 1
    end
  elseif fields[1] == 'dead' then
    if not redis.call('ZSCORE', DEAD, id) then
      redis.call('ZADD', DEAD, fields[4] or NOW_MS, id)
      redis.call('ZADD', kind_key(fields[5] or ''), fields[4] or NOW_MS, id)
      refiled = refiled + 1
    end
  elseif fields[1] == 'trash' then
    if not redis.call('ZSCORE', TRASH, id) then
      redis.call('ZADD', TRASH, NOW_MS, id)
      refiled = refiled + 1
    end
  elseif INDEX_OF[fields[1] or ''] and fields[2] and not is_filed(id) then
    refile_live(id, job, PREFIX .. 'unique:' .. (fields[3] or ''), fields)
  end
  if arg(1) == '' and INDEX_OF[fields[1] or ''] then
    live, live_bytes = live + 1, live_bytes + tonumber(redis.call('HGET', job, 'bytes') or 0)
  end
end
if refiled > 0 then
  increment('refiled', refiled)
  wake()
end
return { int(refiled), int(removed), int(duplicates), int(live), int(live_bytes) }
