-- Admits jobs, each independently: from a producer's call, or from the head of the inbox.
-- KEYS     per job: job:<id>, unique:<sha256>
-- ARGV     1 number of jobs; then per job: raw payload expected at the inbox's head ('' when the job does not
--          come from the inbox), id, payload, priority offset, run_at_ms ('' now), expires_ms ('' never), its
--          name in `done` ('' when it is not to be looked up), pair, payload of its follow-up job ('' none),
--          SHA-256 of the follow-up's lock
-- Returns  per job two strings: admitted|duplicate|already_done|same_id|full|no_memory|moved, and the lock's
--          holder or ''. Stops after the first full, no_memory or moved.
-- Why      No other producer may take the lock between the check for a live holder and taking it; and a
--          payload may leave the inbox only once it is stored elsewhere. Admitting triples a job's bytes, so it
--          stops first when memory runs short. A few jobs from the inbox are admitted all the same when
--          nothing else is ready: this is how an inbox that fills Redis drains. A payload may be smaller than
--          the result that replaces it: where results stay (reports_when_full = wait), at maxmemory such a
--          payload waits in the inbox once there are results to free.
-- Bound    as many jobs as are given (Rust gives at most 100, and 1 MiB). At maxmemory: 64 ready jobs.
local TRICKLE = 64
-- Memory of the largest summary, with how its job ended and the index entries; and of the results that small
-- payloads may add at maxmemory.
local RESULT_BYTES, RESULTS_AT_FULL_BYTES = 2048, 1048576
local jobs, backlog_max, memory = tonumber(arg(1)), setting('backlog_max'), read_memory()
local ready = redis.call('ZCARD', READY) + redis.call('ZCARD', EXCLUSIVE)
local backlog = ready + redis.call('ZCARD', SCHEDULED)
local short_of_memory = memory and memory.used >= memory.max * INTAKE_SHARE
local full_up = short_of_memory and is_full()
local keeps_results = full_up and text_setting('reports_when_full') == 'wait'
  and tonumber(redis.call('HGET', META, 'reports_bytes') or 0) >= RESULTS_AT_FULL_BYTES
local replies, wake_needed = {}, false

local function check_admission(job, unique, done, pair, raw)
  if backlog >= backlog_max then return 'full' end
  -- At maxmemory itself a producer's call is refused by Redis, at its first write.
  if short_of_memory and (raw == '' and not full_up or raw ~= '' and ready >= TRICKLE) then return 'no_memory' end
  if keeps_results and raw ~= '' and #raw < RESULT_BYTES then return 'no_memory' end
  local state = redis.call('HGET', job, 'state')
  if state and state ~= 'trash' then return 'same_id' end
  if done ~= '' and is_done(done, pair) then return 'already_done' end
  local holder = live_holder(unique)
  if holder then return 'duplicate', holder end
  return 'admitted'
end

collect_counts()
for i = 0, jobs - 1 do
  local job, unique = key(i * 2 + 1), key(i * 2 + 2)
  local a = 1 + i * 10
  local raw, id, pair = arg(a + 1), arg(a + 2), arg(a + 8)
  local admission, holder
  if raw ~= '' and redis.call('LINDEX', INBOX, 0) ~= raw then
    admission = 'moved'
  else
    admission, holder = check_admission(job, unique, arg(a + 7), pair, raw)
  end
  local stops = admission == 'full' or admission == 'no_memory' or admission == 'moved'
  -- The first write: LPOP, which Redis allows at maxmemory, or INCR, which it refuses, so that a producer's
  -- call writes nothing then.
  if raw ~= '' and not stops then redis.call('LPOP', INBOX) end
  if admission == 'admitted' then
    local place = redis.call('INCR', SEQ) + tonumber(arg(a + 4))
    if redis.call('HGET', job, 'state') == 'trash' then
      remove_from_trash(id)
      redis.call('UNLINK', job)
    end
    insert_job(id, unique, arg(a + 3), place, arg(a + 6), arg(a + 5), arg(a + 9), arg(a + 10))
    backlog, ready, wake_needed = backlog + 1, ready + 1, true
  elseif stops then
    if raw == '' then emit_event('refused', id, pair, admission) end
  else
    increment(admission)
    emit_event('duplicate', id, pair, holder or admission)
  end
  replies[#replies + 1] = admission
  replies[#replies + 1] = holder or ''
  if stops then break end
end
write_counts()
if wake_needed then wake() end
return replies
