-- Admits jobs, each one as a whole: from a producer's hand, or from the head of the inbox.
-- KEYS     per job: job:<id>, unique:<sha256>, done:<sha256>
-- ARGV     1 largest backlog, 2 number of jobs; then per job: raw (what must stand at the inbox's head, '' when it does
--          not come from there), id, payload, head start, run_at_ms ('' now), expires_ms ('' never),
--          1 when `done` counts, pair, what follows it ('' nothing) and the SHA-256 of that one's lock
-- Returns  per job two strings: admitted|duplicate|already_done|same_id|full|moved, holder or ''. Ends after full, moved.
-- Why      Between looking for a live holder and taking the lock no other producer may do the same; and a payload may
--          leave the inbox only when it stands somewhere else. INCR is the first write on purpose: Redis refuses it at
--          maxmemory, so a full Redis admits nothing and loses nothing.
-- Bound    as many jobs as are given (Rust gives at most 100).
local backlog_max, jobs = tonumber(arg(1)), tonumber(arg(2))
local backlog = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', EXCLUSIVE)
local answers, woken = {}, false

local function judge(job, unique, done, done_counts)
  if backlog >= backlog_max then return 'full' end
  if redis.call('EXISTS', job) == 1 then return 'same_id' end
  if done_counts and redis.call('EXISTS', done) == 1 then return 'already_done' end
  local holder = live_holder(unique)
  if holder then return 'duplicate', holder end
  return 'admitted'
end

local function admit(id, job, unique, payload, priority_offset, run_at, expires, next, next_unique)
  insert_job(id, unique, payload, redis.call('INCR', SEQ) + priority_offset, expires, run_at)
  if next ~= '' then redis.call('HSET', job, 'next', next, 'next_unique', next_unique) end
  backlog = backlog + 1
  woken = true
end

for i = 0, jobs - 1 do
  local job, unique, done = key(i * 3 + 1), key(i * 3 + 2), key(i * 3 + 3)
  local a = 2 + i * 10
  local raw, id, pair = arg(a + 1), arg(a + 2), arg(a + 8)
  local verdict, holder
  if raw ~= '' and redis.call('LINDEX', INBOX, 0) ~= raw then
    verdict = 'moved'
  else
    verdict, holder = judge(job, unique, done, arg(a + 7) == '1')
  end
  if verdict == 'admitted' then
    admit(id, job, unique, arg(a + 3), tonumber(arg(a + 4)), arg(a + 5), arg(a + 6), arg(a + 9), arg(a + 10))
  elseif verdict == 'full' then
    if raw == '' then event('refused', id, pair, 'full') end
  elseif verdict ~= 'moved' then
    count(verdict)
    event('duplicate', id, pair, holder or verdict)
  end
  if raw ~= '' and verdict ~= 'full' and verdict ~= 'moved' then redis.call('LPOP', INBOX) end
  answers[#answers + 1] = verdict
  answers[#answers + 1] = holder or ''
  if verdict == 'full' or verdict == 'moved' then break end
end
if woken then wake() end
return answers
