-- Settles deliveries as done or skipped: deletes the jobs, stores their results. Records which others enter a child.
-- KEYS     per settled job: job:<id>, unique:<sha256>; then per entering job: job:<id>
-- ARGV     1 number of settled jobs; per settled job: id, token, done|skipped, skip reason (of what is done '', or
--          not_posted:<what is missing>), pair, what
--          ended (JSON), report (JSON), the same as a summary (JSON), its name in `done` ('' for a skip
--          that is not permanent), 1 when its annotation was posted, 1 when no follow-up job is wanted, of a skip by content
--          the kinds of both bodies; then per
--          entering job: id, token
-- Returns  per settled job: settled | superseded; then per entering job: entered | lost
-- Why      Result, `done` mark and end of the job change together; so does clearing its content as a suspect,
--          where the delivery had been in a child and came back. Batched, because the call costs Redis more than the
--          job; each job is judged separately, and all before the first write. The follow-up job is admitted in
--          the same step, or a crash in between would lose it; not after a cancelled job, nor where the
--          pair was the one that it would compare, or there is none. Near maxmemory the
--          summary is stored: smaller than the job it replaces, so that settling always frees memory.
--          What enters a child is recorded before it does, by its token: reclaim.lua blames its content when the
--          lease expires. A job that was in a child and is settled here had both bodies: a success of its hosts.
--          That it was fetched whole proves that fetching it kills nobody. In the same call, because
--          a slot that ends one job begins the next.
-- Bound    as many jobs as are given (Rust gives at most 100, and 1 MiB), and one follow-up for each. At
--          maxmemory each settled job frees more than it stores; a follow-up adds itself, and 100 bytes each job that
--          enters a child, until it is settled.
local PER_JOB, settled_count = 12, tonumber(arg(1))
local replies, keys_to_delete, lock_holder, increments = {}, {}, redis.call('GET', EXCLUSIVE_LOCK), {}
local lease_ids, settled_jobs, leaving_jobs, suspects_to_clear, freed_bytes = {}, {}, {}, {}, 0
local entering, successes, read_token = {}, {}, nil

-- What is kept of the deliveries of a job that has ended, behind how it ended, while there is room.
local function with_history(ended, fields)
  local log = fields[8] and string.gsub(fields[8], '\n', ',') or ''
  return string.format('%s,"worker":%s,"enqueued_ms":%s,"claimed_ms":%s,"log_cut":%s,"log":[%s]}', string.sub(ended, 1, -2),
    cjson.encode(fields[10] or ''), fields[11] or '0', fields[2] or '0', fields[9] or '0', string.sub(log, 1, -2))
end

for i = 0, settled_count - 1 do
  local job, unique, a = key(i * 2 + 1), key(i * 2 + 2), 1 + i * PER_JOB
  local id, token = arg(a + 1), arg(a + 2)
  local fields = redis.call('HMGET', job, 'token', 'claimed_ms', 'next', 'hosts', 'entered', 'content', 'bytes', 'log', 'log_cut',
    'worker', 'enqueued_ms', 'operation', 'group', 'replays')
  if fields[1] == token then
    replies[#replies + 1] = 'settled'
    lease_ids[#lease_ids + 1] = id
    leaving_jobs[#leaving_jobs + 1] = { id = id, hosts = fields[4] }
    local cancelled = arg(a + 4) == 'cancelled'
    if fields[5] == token and fields[6] and not cancelled then
      suspects_to_clear[#suspects_to_clear + 1] = suspect_key(fields[6])
    end
    if fields[5] == token and not cancelled then successes[#successes + 1] = plan_success(fields[4]) end
    settled_jobs[#settled_jobs + 1] = { id = id, token = token, state = arg(a + 3), why = arg(a + 4), pair = arg(a + 5),
      ended = arg(a + 6), fields = fields, operation = fields[12], group = fields[13], replays = fields[14],
      visited = fields[5] == token and not cancelled and fields[4],
      report = arg(a + 7), summary = arg(a + 8), posted = arg(a + 10), sniffed = arg(a + 12),
      claimed_ms = fields[2], follow_up = fields[3] and arg(a + 11) == '' and follow_up_of(id, job) }
    read_result_keys(id, arg(a + 5)) -- reads derived keys before the first write, as does `plan_mark`
    if token ~= read_token then redis.call('EXISTS', settled_key(token)) end
    read_token = token
    if arg(a + 9) ~= '' then settled_jobs[#settled_jobs].mark = plan_mark(arg(a + 9)) end
    freed_bytes = freed_bytes + tonumber(fields[7] or 0)
    keys_to_delete[#keys_to_delete + 1] = job
    if redis.call('GET', unique) == id then keys_to_delete[#keys_to_delete + 1] = unique end
  elseif was_settled(id, token) then
    replies[#replies + 1] = 'settled'
  else
    replies[#replies + 1] = 'superseded'
  end
end
for i = 1, #KEYS - FIXED - 2 * settled_count do
  local job, a = key(2 * settled_count + i), 1 + settled_count * PER_JOB + 2 * (i - 1)
  local fields = redis.call('HMGET', job, 'token', 'fetch_crashes')
  local held = fields[1] == arg(a + 2)
  replies[#replies + 1] = held and 'entered' or 'lost'
  if held then
    entering[#entering + 1] = { id = arg(a + 1), token = arg(a + 2), job = job, fetch_crashes = fields[2] }
  end
end

local function enter_children()
  local ids = {}
  for i, e in ipairs(entering) do
    -- Of the first one in any case: allowed at maxmemory, and so is every later write.
    if i == 1 or e.fetch_crashes then redis.call('HDEL', e.job, 'fetch_crashes') end
    redis.call('HSET', e.job, 'entered', e.token)
    ids[i] = e.id
  end
  if ids[1] then set_leases(ids) end
end
if not lease_ids[1] then
  enter_children()
  return replies
end

local memory = read_memory()
local full = is_full()
local room = memory and (full and 0 or memory.max * LEAN_SHARE - memory.used) or math.huge
local handovers = plan_host_handover(leaving_jobs)
-- Reads derived keys before the first write; usually there are none.
if suspects_to_clear[1] and redis.call('EXISTS', unpack(suspects_to_clear)) == 0 then suspects_to_clear = {} end
redis.call('ZREM', LEASE, unpack(lease_ids)) -- allowed at maxmemory, and so is every later write
redis.call('UNLINK', unpack(keys_to_delete))
account('jobs', -#lease_ids, -freed_bytes)
collect_counts()
for _, suspect in ipairs(suspects_to_clear) do remove_suspect(suspect) end
leave_hosts(handovers)
for _, plans in ipairs(successes) do record_success(plans) end
enter_children()
local kills_are_counted = redis.pcall('EXISTS', QUARANTINE.kills) == 1
local function add(field) increments[field] = (increments[field] or 0) + 1 end
for _, e in ipairs(settled_jobs) do
  if lock_holder then end_exclusive(e.id, e.claimed_ms) end
  local lean = #e.report > room
  local ended = lean and e.ended or with_history(e.ended, e.fields)
  local added = store_result(e.id, e.pair, ended, lean and e.summary or e.report, e.state == 'done')
  room = room - math.max(0, added)
  if e.mark then mark_done(e.mark, e.posted) end
  record_replay(e.id, e.operation, e.group, e.replays, e.state, e.why)
  if kills_are_counted and e.visited then QUARANTINE.record_other(e.visited) end
  if e.state == 'done' then
    if lean then add('summarised') end
    if e.why ~= '' then
      add('not_posted')
      add(e.why)
    end
  else
    add('skipped:' .. e.why)
  end
  add(e.state)
  if not full then remember_settled(e.id, e.token) end -- at maxmemory a repeated settle is answered `superseded`
  emit_event(e.state, e.id, e.pair, e.why, e.sniffed)
  if e.follow_up then admit_follow_up(e.follow_up, e.pair) end
end
for field, by in pairs(increments) do increment(field, by) end
write_counts()
return replies
