-- Begins an operator's bulk action, or adds jobs to the selection of one: what it acts on is fixed before it acts.
-- KEYS     1 audit, 2 operations, 3 operation:<id>, 4 operation_jobs:<id>
-- ARGV     1 id, 2 what ('' adds to one that has begun), 3 operator, 4 selection, 5 reason, 6 number of jobs, 7 audit
--          entries kept, 8 operations kept, 9 jobs kept of all of them, 10 life in ms, 11 its options (JSON); then per
--          job: id, and what is known of it
-- Returns  begun | added | unknown
-- Why      A bulk action that is interrupted goes on with the same jobs, and what became of each can be asked later. The
--          oldest operations forget their jobs first, so that all together are bounded.
-- Bound    as many jobs as given (Rust gives at most 500), and the operations kept. At maxmemory: 100 bytes a job.
local id, what, by, jobs, life = arg(1), arg(2), arg(3), tonumber(arg(6)), arg(10)
if what == '' and redis.call('EXISTS', key(3)) == 0 then return { 'unknown' } end
local others, counts = redis.call('ZREVRANGE', key(2), 0, -1), {}
for i, other in ipairs(others) do counts[i] = redis.call('HLEN', OPERATIONS.jobs_key(other)) end
redis.call('ZREM', key(2), id) -- allowed at maxmemory, and so is every later write
if what ~= '' then
  local kept = jobs
  for place, other in ipairs(others) do
    kept = kept + counts[place]
    if kept > tonumber(arg(9)) or place >= tonumber(arg(8)) then redis.call('UNLINK', OPERATIONS.jobs_key(other)) end
    if place >= tonumber(arg(8)) then
      redis.call('UNLINK', PREFIX .. 'operation:' .. other)
      redis.call('ZREM', key(2), other)
    end
  end
  redis.call('HSET', key(3), 'what', what, 'by', by, 'selection', arg(4), 'why', arg(5), 'jobs', arg(6), 'at_ms', int(NOW_MS),
    'options', arg(11))
  redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(7), '*', 'what', what, 'by', by, 'why', arg(5), 'selection', arg(4),
    'count', arg(6), 'operation', id)
end
redis.call('ZADD', key(2), NOW_MS, id)
for i = 12, #ARGV - 3, 2 do redis.call('HSETNX', key(4), arg(i), arg(i + 1)) end
redis.call('PEXPIRE', key(2), life)
redis.call('PEXPIRE', key(3), life)
redis.call('PEXPIRE', key(4), life)
-- Counted anew each time, because they expire by themselves.
local bytes = 0
for _, one in ipairs(redis.call('ZRANGE', key(2), 0, -1)) do
  bytes = bytes + (redis.call('MEMORY', 'USAGE', OPERATIONS.jobs_key(one)) or 0)
end
redis.call('HSET', META, 'operations_bytes', int(bytes))
return { what ~= '' and 'begun' or 'added' }
