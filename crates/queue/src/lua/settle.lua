-- Settles deliveries as done or skipped: the jobs leave, what became of them stays.
-- KEYS     per job: job:<id>, unique:<sha256>, report:<pair>, done:<sha256>
-- ARGV     1 life of a report in ms, 2 life of `done` in ms; then per job: id, token, done|skipped, why, pair, report (JSON)
-- Returns  per job: settled | superseded
-- Why      Report, memory and the end of a job are one fact; so is that its content is above suspicion, where the delivery
--          went all the way in and came back. A second settle with the same token finds the token in
--          `done` and is reported that it was settled, not that it came too late. Several at once, because what a job
--          costs here is mostly the call; each is judged on its own, and all before the first write. What follows a job
--          comes in with the same step, or a crash in between would lose it; not after one that nobody wants any more.
-- Bound    as many jobs as are given (Rust gives at most 100), and one that follows each.
local answers, gone, exclusive, counts = {}, {}, redis.call('GET', EXCLUSIVE_LOCK), {}
local leases, endings, leaving, cleared = {}, {}, {}, {}

for i = 0, (#KEYS - 13) / 4 - 1 do
  local k, a = i * 4, 2 + i * 6
  local id, token = arg(a + 1), arg(a + 2)
  local j = redis.call('HMGET', key(k + 1), 'token', 'claimed_ms', 'settled', 'next', 'hosts', 'started', 'content')
  if j[1] == token then
    answers[#answers + 1] = 'settled'
    leases[#leases + 1] = id
    leaving[#leaving + 1] = { id = id, hosts = j[5] }
    if j[6] == token and arg(a + 4) ~= 'cancelled' then cleared[#cleared + 1] = suspect_key(j[7]) end
    endings[#endings + 1] = { id = id, token = token, state = arg(a + 3), why = arg(a + 4), pair = arg(a + 5),
      report = arg(a + 6), report_key = key(k + 3), done_key = key(k + 4), claimed_ms = j[2],
      next = j[4] and arg(a + 4) ~= 'cancelled' and follow_up_of(id, key(k + 1)) }
    gone[#gone + 1] = key(k + 1)
    if redis.call('GET', key(k + 2)) == id then gone[#gone + 1] = key(k + 2) end
  elseif j[3] == token or redis.call('GET', key(k + 4)) == token then
    answers[#answers + 1] = 'settled'
  else
    answers[#answers + 1] = 'superseded'
  end
end
if not leases[1] then return answers end

local calls = plan_host_handover(leaving)
if cleared[1] then redis.call('EXISTS', unpack(cleared)) end -- derived keys are touched before the first write
redis.call('ZREM', LEASE, unpack(leases)) -- allowed at maxmemory, and so is everything after it
redis.call('UNLINK', unpack(gone))
if cleared[1] then redis.call('DEL', unpack(cleared)) end
leave_hosts(calls)
local function add(field) counts[field] = (counts[field] or 0) + 1 end
for _, e in ipairs(endings) do
  if exclusive then end_exclusive(e.id, e.claimed_ms) end
  if e.state == 'done' then
    redis.call('SET', e.report_key, e.report, 'PX', arg(1))
    redis.call('SET', e.done_key, e.token, 'PX', arg(2))
  else
    redis.call('SET', e.report_key, e.report, 'PX', arg(1), 'NX') -- a late skip never replaces what was found before
    add('skipped:' .. e.why)
  end
  add(e.state)
  event(e.state, e.id, e.pair, e.why)
  if e.next then admit_follow_up(e.next, e.pair) end
end
for field, by in pairs(counts) do count(field, by) end
return answers
