-- Buries an invalid payload from the head of the inbox.
-- KEYS     1 job:<the payload's own id, or the spare one>, 2 job:<spare id>, 3 dead:kind:<kind>
-- ARGV     1 its own id, 2 spare id, 3 kind, 4 reason (JSON), 5 the payload's first bytes, 6 its full length, 7 its
--          hash, prefixed with the algorithm, 8 bytes given to recognise it, 9 pair ('' unknown), 10 the death as
--          a report (JSON), 11 its sentence, 12 this build
-- Returns  buried, id | moved (another payload is at the head by now)
-- Why      The evidence is stored and the payload removed in one step, or it would be buried twice or lost. It
--          keeps its own id, by which its producer looks for it, unless a job has that id.
-- Bound    one payload. At maxmemory it replaces the oldest letter of its kind.
local id, kind, reason, head, length, pair = arg(1), arg(3), arg(4), arg(5), tonumber(arg(6)), arg(9)
local raw = redis.call('LINDEX', INBOX, 0)
if not raw or #raw ~= length or string.sub(raw, 1, #arg(8)) ~= arg(8) then return { 'moved' } end
local job, full = key(1), is_full()
local report = arg(10)
if redis.call('EXISTS', job) == 1 then
  id, job = arg(2), key(2)
  report = '{"id":"' .. id .. string.sub(report, 8 + #arg(1)) -- a report begins with its job's id
end
read_result_keys(id, pair) -- reads derived keys before the first write
local oldest = full and redis.call('ZRANGE', key(3), 0, 0)[1]
local oldest_fields = oldest and redis.call('HMGET', job_key(oldest), 'kind', 'size', 'state')
redis.call('LPOP', INBOX) -- allowed at maxmemory, and so is every later write
if oldest then
  remove_dead_letter(oldest, oldest_fields[1], oldest_fields[2])
  if oldest_fields[3] == 'dead' then redis.call('UNLINK', job_key(oldest)) end
  increment('evicted')
end
redis.call('HSET', job, 'raw', head, 'raw_length', int(length), 'raw_hash', arg(7), 'enqueued_ms', int(NOW_MS))
bury(id, job, kind, reason, '', arg(11), arg(12))
if not full then
  store_result(id, pair, cjson.encode({ id = id, pair = pair, state = 'dead', why = kind }), report, false)
end
emit_event('buried', id, pair, kind)
return { 'buried', id }
