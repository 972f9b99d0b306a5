-- Takes in waiting work that was exported: payloads into the inbox, jobs into the index of their state, with their
-- counts.
-- KEYS     1 imported:<export>; then per job: job:<id>, unique:<sha256>
-- ARGV     1 seq of the queue that it comes from, 2 life of the mark in ms, 3 number of payloads, then number and payload
--          of each; then the number of jobs, then per job: id, state, its place there, number of its fields, then fields
--          and values, alternating
-- Returns  full | no_memory (nothing was taken in) | taken, then per payload and per job: imported | known (its id is
--          alive or has ended here, its number was imported) | in_trash (a letter of this id was discarded here) |
--          duplicate (another job holds its lock)
-- Why      An interrupted import is run again: a job is known by its id, a payload of the inbox, which has none, by its
--          number, the highest of which is kept. `seq` does not fall behind the places of what comes in, or newer jobs
--          would overtake it.
-- Bound    as many as are given (Rust gives at most 50). At maxmemory it is refused at its first write, as a producer is.
local mark, seq, payloads = key(1), tonumber(arg(1)), tonumber(arg(3))
local memory = read_memory()
if memory and memory.used >= memory.max * INTAKE_SHARE then return { 'no_memory' } end
local replies, new_payloads, new_jobs, taken = { 'taken' }, {}, {}, {}

local last = tonumber(redis.call('GET', mark)) or 0
for i = 0, payloads - 1 do
  local number = tonumber(arg(4 + i * 2))
  if number > last then
    new_payloads[#new_payloads + 1] = arg(5 + i * 2)
    last = number
    replies[#replies + 1] = 'imported'
  else
    replies[#replies + 1] = 'known'
  end
end

local at = 4 + payloads * 2
local jobs = tonumber(arg(at))
at = at + 1
for i = 0, jobs - 1 do
  local id, job, unique, fields = arg(at), key(2 + i * 2), key(3 + i * 2), tonumber(arg(at + 3))
  local holder = live_holder(unique)
  if redis.call('HGET', job, 'state') == 'trash' then
    replies[#replies + 1] = 'in_trash'
  elseif redis.call('EXISTS', job, ended_key(id)) > 0 or taken[job] then
    replies[#replies + 1] = 'known'
  elseif holder or taken[unique] then
    replies[#replies + 1] = 'duplicate'
  else
    taken[job], taken[unique] = true, true
    new_jobs[#new_jobs + 1] = { id = id, job = job, unique = unique, state = arg(at + 1), place = arg(at + 2),
      from = at + 4, to = at + 3 + fields * 2 }
    replies[#replies + 1] = 'imported'
  end
  at = at + 4 + fields * 2
end
local backlog = redis.call('ZCARD', READY) + redis.call('ZCARD', EXCLUSIVE) + redis.call('ZCARD', SCHEDULED)
if new_jobs[1] and backlog + #new_jobs > setting('backlog_max') then return { 'full' } end

if (tonumber(redis.call('GET', SEQ)) or 0) < seq then redis.call('SET', SEQ, int(seq)) end
if new_payloads[1] then
  redis.call('RPUSH', INBOX, unpack(new_payloads))
  redis.call('SET', mark, int(last), 'PX', arg(2))
end
collect_counts()
for _, new in ipairs(new_jobs) do
  redis.call('HSET', new.job, 'state', new.state, unpack(ARGV, 3 + new.from, 3 + new.to))
  redis.call('ZADD', INDEX_OF[new.state], new.place, new.id)
  local lock_ms = new.state == 'scheduled' and UNIQUE_MS + math.max(0, tonumber(new.place) - NOW_MS) or UNIQUE_MS
  redis.call('SET', new.unique, new.id, 'PX', int(lock_ms))
  if new.state ~= 'scheduled' then
    redis.pcall('ZADD', WAITING, redis.call('HGET', new.job, 'enqueued_ms') or NOW_MS, new.id)
  end
  account('jobs', 1, 0)
  recount_job(new.job, new.unique, 0)
  increment('admitted')
end
write_counts()
if new_jobs[1] then wake() end
return replies
