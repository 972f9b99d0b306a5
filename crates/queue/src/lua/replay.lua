-- Replays a dead letter: requeues the job under the same id with a fresh retry budget.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 largest backlog, 3 pair, 4 priority offset, 5 granted wall clock in ms, 6 granted heap in
--          bytes ('' where not raised), 7 the `died_ms` that the caller has read ('': not checked), 8 operation
--          ('' none), 9 operator, 10 another payload for the same pair ('' the job's own)
-- Returns  two strings: replayed | missing | died_anew | undecodable | full | duplicate, and the lock's holder
--          or ''
-- Why      A job both dead and ready would run twice, in neither it would be lost. The lock is taken as at
--          admission: where another job for the pair is live, the letter stays. Limits granted by an operator
--          are stored beside the payload, which stays as the producer sent it; they apply until the job is
--          settled or replayed again. A letter that was replayed and died anew since the caller read it is
--          another death, which the caller has not seen: it stays. What is known of its death stays in the hash until it
--          dies again, and the payload as it was before an edit, for undo_replay.lua. What became of it is recorded in its operation in the same step: a replay
--          that is interrupted goes on where it was.
-- Bound    one letter.
local id, job, operation = arg(1), key(1), arg(8)
local fields = redis.call('HMGET', job, 'state', 'payload', 'unique', 'kind', 'size', 'crashes', 'died_ms', 'group')
redis.call('EXISTS', OPERATIONS.jobs_key(operation)) -- reads a derived key before the first write
local function refused(word, holder)
  OPERATIONS.record(operation, id, word)
  return { word, holder or '' }
end
if fields[1] ~= 'dead' then return refused('missing') end
if arg(7) ~= '' and fields[7] ~= arg(7) then return refused('died_anew') end
if not fields[2] then return refused('undecodable') end
local backlog = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', EXCLUSIVE)
if backlog >= setting('backlog_max') then return { 'full', '' } end
local unique = PREFIX .. 'unique:' .. (fields[3] or '')
local holder = live_holder(unique)
if holder then return refused('duplicate', holder) end

-- The first write is a ZREM, which Redis allows at maxmemory, and then every later write.
remove_dead_letter(id, fields[4], fields[5])
-- A new place behind the newest jobs and a new budget; a job that crashed before still runs exclusively.
local score = redis.call('INCR', SEQ) + tonumber(arg(4))
redis.call('HDEL', job, 'size', 'failures', 'ambiguous_exits', 'postponements', 'postponed_ms', 'releases',
  'cancel', 'last_failure', 'suspect', 'priority_offset', 'raw', 'raw_length', 'raw_hash', 'granted_wall_ms', 'granted_heap_bytes')
if arg(5) ~= '' then redis.call('HSET', job, 'granted_wall_ms', arg(5)) end
if arg(6) ~= '' then redis.call('HSET', job, 'granted_heap_bytes', arg(6)) end
if operation ~= '' then redis.call('HSET', job, 'operation', operation) end
redis.call('HDEL', job, 'unedited')
if arg(10) ~= '' then redis.call('HSET', job, 'payload', arg(10), 'unedited', fields[2]) end
redis.call('HSET', job, 'score', int(score), 'crashes', math.min(tonumber(fields[6] or 0), 1))
redis.call('HINCRBY', job, 'replays', 1)
redis.call('SET', unique, id, 'PX', UNIQUE_MS)
log_line(job, { what = 'replayed', by = arg(9), operation = operation })
make_waiting(id, job)
account('jobs', 1, 0)
recount_job(job, unique)
if fields[8] then GROUPS.add(fields[8], 'replayed', 1) end
OPERATIONS.record(operation, id, 'replayed')
increment('replayed')
emit_event('replayed', id, arg(3), '')
wake()
return { 'replayed', '' }
