-- Settles deliveries as done or skipped: deletes the jobs, stores their reports.
-- KEYS     per job: job:<id>, unique:<sha256>, report:<pair>, done:<sha256>
-- ARGV     1 life of a report in ms, 2 life of `done` in ms; then per job: id, token, done|skipped, skip
--          reason ('' when done), pair, report (JSON)
-- Returns  per job: settled | superseded
-- Why      Report, `done` mark and end of the job change together; so does clearing its content as a suspect,
--          where the delivery had started and came back. A repeated settle with the same token finds the
--          token in `done` and returns settled, not superseded. Batched, because the call costs Redis more
--          than the job; each job is judged separately, and all before the first write. The follow-up job is
--          admitted in the same step, or a crash in between would lose it; not after a cancelled job.
-- Bound    as many jobs as are given (Rust gives at most 100), and one follow-up for each.
local replies, keys_to_delete, lock_holder, increments = {}, {}, redis.call('GET', EXCLUSIVE_LOCK), {}
local lease_ids, settled_jobs, leaving_jobs, suspects_to_clear = {}, {}, {}, {}

for i = 0, (#KEYS - 13) / 4 - 1 do
  local k, a = i * 4, 2 + i * 6
  local id, token = arg(a + 1), arg(a + 2)
  local fields = redis.call('HMGET', key(k + 1), 'token', 'claimed_ms', 'settled', 'next', 'hosts', 'started', 'content')
  if fields[1] == token then
    replies[#replies + 1] = 'settled'
    lease_ids[#lease_ids + 1] = id
    leaving_jobs[#leaving_jobs + 1] = { id = id, hosts = fields[5] }
    if fields[6] == token and arg(a + 4) ~= 'cancelled' then
      suspects_to_clear[#suspects_to_clear + 1] = suspect_key(fields[7])
    end
    settled_jobs[#settled_jobs + 1] = { id = id, token = token, state = arg(a + 3), why = arg(a + 4), pair = arg(a + 5),
      report = arg(a + 6), report_key = key(k + 3), done_key = key(k + 4), claimed_ms = fields[2],
      follow_up = fields[4] and arg(a + 4) ~= 'cancelled' and follow_up_of(id, key(k + 1)) }
    keys_to_delete[#keys_to_delete + 1] = key(k + 1)
    if redis.call('GET', key(k + 2)) == id then keys_to_delete[#keys_to_delete + 1] = key(k + 2) end
  elseif fields[3] == token or redis.call('GET', key(k + 4)) == token then
    replies[#replies + 1] = 'settled'
  else
    replies[#replies + 1] = 'superseded'
  end
end
if not lease_ids[1] then return replies end

local handovers = plan_host_handover(leaving_jobs)
if suspects_to_clear[1] then redis.call('EXISTS', unpack(suspects_to_clear)) end -- reads derived keys before the first write
redis.call('ZREM', LEASE, unpack(lease_ids)) -- allowed at maxmemory, and so is every later write
redis.call('UNLINK', unpack(keys_to_delete))
if suspects_to_clear[1] then redis.call('DEL', unpack(suspects_to_clear)) end
leave_hosts(handovers)
local function add(field) increments[field] = (increments[field] or 0) + 1 end
for _, e in ipairs(settled_jobs) do
  if lock_holder then end_exclusive(e.id, e.claimed_ms) end
  if e.state == 'done' then
    redis.call('SET', e.report_key, e.report, 'PX', arg(1))
    redis.call('SET', e.done_key, e.token, 'PX', arg(2))
  else
    -- A late skip never replaces an earlier report.
    redis.call('SET', e.report_key, e.report, 'PX', arg(1), 'NX')
    add('skipped:' .. e.why)
  end
  add(e.state)
  emit_event(e.state, e.id, e.pair, e.why)
  if e.follow_up then admit_follow_up(e.follow_up, e.pair) end
end
for field, by in pairs(increments) do increment(field, by) end
return replies
