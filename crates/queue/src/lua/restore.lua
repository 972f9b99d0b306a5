-- Takes one letter out of the trash, back among the dead letters.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 operation ('' none), 3 operator
-- Returns  restored | missing
-- Why      Both indexes and both byte counts change together.
-- Bound    one letter.
local id, job = arg(1), key(1)
local fields = redis.call('HMGET', job, 'state', 'kind', 'died_ms')
redis.call('EXISTS', kind_key(fields[2] or ''), OPERATIONS.jobs_key(arg(2))) -- reads derived keys before the first write
if fields[1] ~= 'trash' then
  OPERATIONS.record(arg(2), id, 'missing')
  return { 'missing' }
end
remove_from_trash(id)
log_line(job, { what = 'restored', by = arg(3), operation = arg(2) })
return_dead_letter(id, job, fields[3] or int(NOW_MS), fields[2] or '')
OPERATIONS.record(arg(2), id, 'restored')
increment('restored')
emit_event('restored', id, '', fields[2] or '')
return { 'restored' }
