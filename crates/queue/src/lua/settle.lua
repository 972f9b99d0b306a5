-- Settles deliveries as done or skipped: deletes the jobs, stores their results.
-- KEYS     per job: job:<id>, unique:<sha256>
-- ARGV     per job: id, token, done|skipped, skip reason ('' when done), pair, what ended (JSON), report (JSON),
--          the same as a summary (JSON), its name in `done`, 1 when its annotation was posted
-- Returns  per job: settled | superseded
-- Why      Result, `done` mark and end of the job change together; so does clearing its content as a suspect,
--          where the delivery had started and came back. Batched, because the call costs Redis more than the
--          job; each job is judged separately, and all before the first write. The follow-up job is admitted in
--          the same step, or a crash in between would lose it; not after a cancelled job. Near maxmemory the
--          summary is stored: smaller than the job it replaces, so that settling always frees memory.
-- Bound    as many jobs as are given (Rust gives at most 100, and 1 MiB), and one follow-up for each. At
--          maxmemory each settled job frees more than it stores; a follow-up adds itself.
local PER_JOB = 10
local replies, keys_to_delete, lock_holder, increments = {}, {}, redis.call('GET', EXCLUSIVE_LOCK), {}
local lease_ids, settled_jobs, leaving_jobs, suspects_to_clear, freed_bytes = {}, {}, {}, {}, 0

for i = 0, (#KEYS - FIXED) / 2 - 1 do
  local job, unique, a = key(i * 2 + 1), key(i * 2 + 2), i * PER_JOB
  local id, token = arg(a + 1), arg(a + 2)
  local fields = redis.call('HMGET', job, 'token', 'claimed_ms', 'next', 'hosts', 'started', 'content', 'bytes')
  if fields[1] == token then
    replies[#replies + 1] = 'settled'
    lease_ids[#lease_ids + 1] = id
    leaving_jobs[#leaving_jobs + 1] = { id = id, hosts = fields[4] }
    local cancelled = arg(a + 4) == 'cancelled'
    if fields[5] == token and not cancelled then
      suspects_to_clear[#suspects_to_clear + 1] = suspect_key(fields[6])
    end
    settled_jobs[#settled_jobs + 1] = { id = id, token = token, state = arg(a + 3), why = arg(a + 4), pair = arg(a + 5),
      ended = arg(a + 6), report = arg(a + 7), summary = arg(a + 8), posted = arg(a + 10),
      claimed_ms = fields[2], follow_up = fields[3] and not cancelled and follow_up_of(id, job) }
    read_result_keys(id, arg(a + 5)) -- reads derived keys before the first write, as does `plan_mark`
    redis.call('EXISTS', settled_key(token))
    if arg(a + 3) == 'done' then settled_jobs[#settled_jobs].mark = plan_mark(arg(a + 9)) end
    freed_bytes = freed_bytes + tonumber(fields[7] or 0)
    keys_to_delete[#keys_to_delete + 1] = job
    if redis.call('GET', unique) == id then keys_to_delete[#keys_to_delete + 1] = unique end
  elseif was_settled(id, token) then
    replies[#replies + 1] = 'settled'
  else
    replies[#replies + 1] = 'superseded'
  end
end
if not lease_ids[1] then return replies end

local memory = read_memory()
local full = is_full()
local room = memory and (full and 0 or memory.max * LEAN_SHARE - memory.used) or math.huge
local handovers = plan_host_handover(leaving_jobs)
if suspects_to_clear[1] then redis.call('EXISTS', unpack(suspects_to_clear)) end -- reads derived keys before the first write
redis.call('ZREM', LEASE, unpack(lease_ids)) -- allowed at maxmemory, and so is every later write
redis.call('UNLINK', unpack(keys_to_delete))
account('jobs', -#lease_ids, -freed_bytes)
for _, suspect in ipairs(suspects_to_clear) do remove_suspect(suspect) end
leave_hosts(handovers)
local function add(field) increments[field] = (increments[field] or 0) + 1 end
for _, e in ipairs(settled_jobs) do
  if lock_holder then end_exclusive(e.id, e.claimed_ms) end
  local lean = #e.report > room
  local added = store_result(e.id, e.pair, e.ended, lean and e.summary or e.report, e.state == 'done')
  room = room - math.max(0, added)
  if e.state == 'done' then
    mark_done(e.mark, e.posted)
    if lean then add('summarised') end
  else
    add('skipped:' .. e.why)
  end
  add(e.state)
  if not full then remember_settled(e.id, e.token) end -- at maxmemory a repeated settle is answered `superseded`
  emit_event(e.state, e.id, e.pair, e.why)
  if e.follow_up then admit_follow_up(e.follow_up, e.pair) end
end
for field, by in pairs(increments) do increment(field, by) end
return replies
