-- Admits jobs, each independently: from a producer's call, or from the head of the inbox.
-- KEYS     per job: job:<id>, unique:<sha256>, done:<sha256>
-- ARGV     1 largest backlog, 2 number of jobs; then per job: raw payload expected at the inbox's head (''
--          when the job does not come from the inbox), id, payload, priority offset, run_at_ms ('' now),
--          expires_ms ('' never), 1 when a `done` mark rejects it, pair, payload of its follow-up job (''
--          none), SHA-256 of the follow-up's lock
-- Returns  per job two strings: admitted|duplicate|already_done|same_id|full|moved, and the lock's holder or
--          ''. Stops after the first full or moved.
-- Why      No other producer may take the lock between the check for a live holder and taking it; and a
--          payload may leave the inbox only once it is stored elsewhere. INCR is the first write on purpose:
--          Redis refuses it at maxmemory, so a full Redis admits nothing and loses nothing.
-- Bound    as many jobs as are given (Rust gives at most 100).
local backlog_max, jobs = tonumber(arg(1)), tonumber(arg(2))
local backlog = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', EXCLUSIVE)
local replies, wake_needed = {}, false

local function check_admission(job, unique, done, done_counts)
  if backlog >= backlog_max then return 'full' end
  if redis.call('EXISTS', job) == 1 then return 'same_id' end
  if done_counts and redis.call('EXISTS', done) == 1 then return 'already_done' end
  local holder = live_holder(unique)
  if holder then return 'duplicate', holder end
  return 'admitted'
end

local function admit(id, job, unique, payload, priority_offset, run_at, expires, follow_up,
  follow_up_unique)
  insert_job(id, unique, payload, redis.call('INCR', SEQ) + priority_offset, expires, run_at)
  if follow_up ~= '' then redis.call('HSET', job, 'next', follow_up, 'next_unique', follow_up_unique) end
  backlog = backlog + 1
  wake_needed = true
end

for i = 0, jobs - 1 do
  local job, unique, done = key(i * 3 + 1), key(i * 3 + 2), key(i * 3 + 3)
  local a = 2 + i * 10
  local raw, id, pair = arg(a + 1), arg(a + 2), arg(a + 8)
  local admission, holder
  if raw ~= '' and redis.call('LINDEX', INBOX, 0) ~= raw then
    admission = 'moved'
  else
    admission, holder = check_admission(job, unique, done, arg(a + 7) == '1')
  end
  if admission == 'admitted' then
    admit(id, job, unique, arg(a + 3), tonumber(arg(a + 4)), arg(a + 5), arg(a + 6), arg(a + 9), arg(a + 10))
  elseif admission == 'full' then
    if raw == '' then emit_event('refused', id, pair, 'full') end
  elseif admission ~= 'moved' then
    increment(admission)
    emit_event('duplicate', id, pair, holder or admission)
  end
  if raw ~= '' and admission ~= 'full' and admission ~= 'moved' then redis.call('LPOP', INBOX) end
  replies[#replies + 1] = admission
  replies[#replies + 1] = holder or ''
  if admission == 'full' or admission == 'moved' then break end
end
if wake_needed then wake() end
return replies
