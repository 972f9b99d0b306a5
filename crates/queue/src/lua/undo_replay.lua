-- Puts a replayed job that still waits back among the dead letters, as it died.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 the operation that replayed it, 3 pair, 4 operator
-- Returns  undone | in_flight | missing (it has ended, or another operation replayed it)
-- Why      A job in flight may be done in a moment: it is left alone. Its index, its lock and the letter change
--          together, or the job would be both dead and ready, or neither.
-- Bound    one job.
local id, job = arg(1), key(1)
local fields = redis.call('HMGET', job, 'state', 'operation', 'reason', 'died_ms', 'kind', 'unique', 'bytes', 'waits_for_host', 'group',
  'unedited')
local index = INDEX_OF[fields[1] or '']
if not index or fields[2] ~= arg(2) or not fields[3] then return { 'missing' } end
if fields[1] == 'in_flight' then return { 'in_flight' } end
local unique = PREFIX .. 'unique:' .. (fields[6] or '')
redis.call('EXISTS', unique, kind_key(fields[5]), OPERATIONS.jobs_key(arg(2))) -- reads derived keys before the first write
redis.call('ZCARD', WAITING_HOSTS)
if fields[8] then redis.call('ZCARD', host_waiters_key(fields[8])) end
redis.call('ZREM', index, id) -- allowed at maxmemory, and so is every later write
redis.pcall('ZREM', WAITING, id)
if fields[8] then
  redis.call('ZREM', host_waiters_key(fields[8]), id)
  count_host_waiters(fields[8])
end
release_unique_lock(unique, id)
if fields[10] then redis.call('HSET', job, 'payload', fields[10]) end
redis.call('HDEL', job, 'operation', 'bytes', 'waits_for_host', 'run_at_ms', 'cancel', 'unedited')
redis.call('HINCRBY', job, 'replays', -1)
log_line(job, { what = 'replay undone', by = arg(4), operation = arg(2) })
account('jobs', -1, -tonumber(fields[7] or 0))
return_dead_letter(id, job, fields[4], fields[5])
if fields[9] then GROUPS.add(fields[9], 'replayed', -1) end
OPERATIONS.record(arg(2), id, 'undone')
increment('replays_undone')
emit_event('replay_undone', id, arg(3), '')
return { 'undone' }
