-- Replays a dead letter: requeues the job under the same id with a fresh retry budget.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 largest backlog, 3 pair, 4 priority offset, 5 granted wall clock in ms, 6 granted heap in
--          bytes ('' where not raised)
-- Returns  two strings: replayed | missing | undecodable | full | duplicate, and the lock's holder or ''
-- Why      A job both dead and ready would run twice, in neither it would be lost. The lock is taken as at
--          admission: where another job for the pair is live, the letter stays. Limits granted by an operator
--          are stored beside the payload, which stays as the producer sent it; they apply until the job is
--          settled or replayed again.
-- Bound    one letter.
local id, job = arg(1), key(1)
local fields = redis.call('HMGET', job, 'state', 'payload', 'unique', 'kind', 'size', 'crashes')
if fields[1] ~= 'dead' then return { 'missing', '' } end
if not fields[2] then return { 'undecodable', '' } end
local backlog = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', EXCLUSIVE)
if backlog >= tonumber(arg(2)) then return { 'full', '' } end
local unique = PREFIX .. 'unique:' .. (fields[3] or '')
local holder = live_holder(unique)
if holder then return { 'duplicate', holder } end

-- A new place behind the newest jobs and a new budget; a job that crashed before still runs exclusively.
local score = redis.call('INCR', SEQ) + tonumber(arg(4))
remove_dead_letter(id, fields[4], fields[5])
redis.call('HDEL', job, 'died_ms', 'kind', 'reason', 'size', 'failures', 'ambiguous_exits', 'postponements', 'postponed_ms', 'releases',
  'cancel', 'last_failure', 'suspect', 'granted_wall_ms', 'granted_heap_bytes')
if arg(5) ~= '' then redis.call('HSET', job, 'granted_wall_ms', arg(5)) end
if arg(6) ~= '' then redis.call('HSET', job, 'granted_heap_bytes', arg(6)) end
redis.call('HSET', job, 'score', int(score), 'crashes', math.min(tonumber(fields[6] or 0), 1))
redis.call('HINCRBY', job, 'replays', 1)
redis.call('SET', unique, id, 'PX', UNIQUE_MS)
make_waiting(id, job)
increment('replayed')
emit_event('replayed', id, arg(3), '')
wake()
return { 'replayed', '' }
