-- Puts a dead letter back to work under the same id.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 largest backlog, 3 pair, 4 head start, 5 wall clock in ms, 6 heap in bytes ('' where not raised)
-- Returns  replayed | missing | undecodable | full | duplicate, holder
-- Why      Dead and ready at once would run twice, neither would be lost. The lock is taken as at admission: where
--          another job for the pair is live, the letter stays. What an operator grants it stands beside the payload,
--          which is the producer's word and stays as it came; it lasts until the job is settled or replayed again.
-- Bound    one letter.
local id, job = arg(1), key(1)
local j = redis.call('HMGET', job, 'state', 'payload', 'unique', 'kind', 'size', 'crashes')
if j[1] ~= 'dead' then return { 'missing', '' } end
if not j[2] then return { 'undecodable', '' } end
local backlog = redis.call('ZCARD', READY) + redis.call('ZCARD', SCHEDULED) + redis.call('ZCARD', EXCLUSIVE)
if backlog >= tonumber(arg(2)) then return { 'full', '' } end
local unique = PREFIX .. 'unique:' .. (j[3] or '')
local holder = live_holder(unique)
if holder then return { 'duplicate', holder } end

-- A new place at the end, a new budget; but what crashed before runs exclusively.
local score = redis.call('INCR', SEQ) + tonumber(arg(4))
remove_dead_letter(id, j[4], j[5])
redis.call('HDEL', job, 'died_ms', 'kind', 'reason', 'size', 'failures', 'ambiguous_exits', 'postponements', 'postponed_ms', 'releases',
  'cancel', 'last_failure', 'suspect', 'granted_wall_ms', 'granted_heap_bytes')
if arg(5) ~= '' then redis.call('HSET', job, 'granted_wall_ms', arg(5)) end
if arg(6) ~= '' then redis.call('HSET', job, 'granted_heap_bytes', arg(6)) end
redis.call('HSET', job, 'score', int(score), 'crashes', math.min(tonumber(j[6] or 0), 1))
redis.call('HINCRBY', job, 'replays', 1)
redis.call('SET', unique, id, 'PX', UNIQUE_MS)
make_waiting(id, job)
count('replayed')
event('replayed', id, arg(3), '')
wake()
return { 'replayed', '' }
