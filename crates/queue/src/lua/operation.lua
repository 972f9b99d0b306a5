-- Begins an operator's bulk action, or adds jobs to the selection of one: what it acts on is fixed before it acts.
-- KEYS     1 audit, 2 operations, 3 operation:<id>, 4 operation_jobs:<id>
-- ARGV     1 id, 2 what ('' adds to one that has begun), 3 operator, 4 selection, 5 reason, 6 number of jobs, 7 audit
--          entries kept, 8 operations kept, 9 jobs kept of all of them, 10 life in ms, 11 its options (JSON), 12 how long
--          one that has not come to all of its jobs is kept, in ms; then per job: id, and what is known of it
-- Returns  begun | added | unknown | busy, the oldest of those that leave no room, jobs of these
-- Why      A bulk action that is interrupted goes on with the same jobs, and what became of each can be asked later. The
--          oldest operations forget their jobs first, so that all together are bounded; but not one that is not through
--          (`left`) and not too old: it could not be gone on with, so a younger one is refused instead.
-- Bound    as many jobs as given (Rust gives at most 500), and the operations kept. At maxmemory: 100 bytes a job.
local id, what, by, jobs, life = arg(1), arg(2), arg(3), tonumber(arg(6)), arg(10)
if what == '' and redis.call('EXISTS', key(3)) == 0 then return { 'unknown' } end
local most, jobs_most, others = tonumber(arg(8)), tonumber(arg(9)), {}
local places, kept, oldest = 1, jobs, nil
local recorded = what ~= '' and redis.call('ZREVRANGE', key(2), 0, -1, 'WITHSCORES') or {}
for i = 1, #recorded, 2 do
  local other = { id = recorded[i], jobs = redis.call('HLEN', OPERATIONS.jobs_key(recorded[i])) }
  local fields = redis.call('HMGET', OPERATIONS.key(other.id), 'left', 'jobs')
  if other.id ~= id then others[#others + 1] = other end
  if other.id ~= id and (tonumber(fields[1]) or 0) > 0 and tonumber(recorded[i + 1]) > NOW_MS - tonumber(arg(12)) then
    other.is_open, oldest = true, other.id
    places, kept = places + 1, kept + math.max(other.jobs, tonumber(fields[2]) or 0)
  end
end
if oldest and (places > most or kept > jobs_most) then return { 'busy', oldest, int(kept - jobs) } end

redis.call('ZREM', key(2), id) -- allowed at maxmemory, and so is every later write
if what ~= '' then
  for _, other in ipairs(others) do
    if not other.is_open then
      places, kept = places + 1, kept + other.jobs
      if kept > jobs_most or places > most then redis.call('UNLINK', OPERATIONS.jobs_key(other.id)) end
      if places > most then
        redis.call('UNLINK', OPERATIONS.key(other.id))
        redis.call('ZREM', key(2), other.id)
      end
    end
  end
  redis.call('HSET', key(3), 'what', what, 'by', by, 'selection', arg(4), 'why', arg(5), 'jobs', arg(6), 'at_ms', int(NOW_MS),
    'options', arg(11), 'left', arg(6))
  redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(7), '*', 'what', what, 'by', by, 'why', arg(5), 'selection', arg(4),
    'count', arg(6), 'operation', id)
end
redis.call('ZADD', key(2), NOW_MS, id)
for i = 13, #ARGV - 3, 2 do redis.call('HSETNX', key(4), arg(i), arg(i + 1)) end
redis.call('PEXPIRE', key(2), life)
redis.call('PEXPIRE', key(3), life)
redis.call('PEXPIRE', key(4), life)
return { what ~= '' and 'begun' or 'added' }
