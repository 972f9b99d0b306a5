-- Discards one dead letter: to the trash, or for good.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 the `died_ms` that the caller has read ('': not checked), 3 trash|now, 4 operation ('' none),
--          5 operator
-- Returns  discarded | missing | died_anew
-- Why      Letter, index and byte count change together. A letter that was replayed and died anew since the
--          caller read it is another death, of which the caller has no copy: it stays. What is in the trash counts
--          into the budget of the dead letters, and is the first to give way.
-- Bound    one letter.
local id, job, operation = arg(1), key(1), arg(4)
local fields = redis.call('HMGET', job, 'state', 'kind', 'size', 'died_ms')
redis.call('EXISTS', OPERATIONS.jobs_key(operation)) -- reads a derived key before the first write
local function ended(word)
  OPERATIONS.record(operation, id, word)
  return { word }
end
if fields[1] == 'trash' and arg(3) == 'now' then
  remove_from_trash(id)
  redis.call('UNLINK', job)
  return ended('discarded')
end
if fields[1] ~= 'dead' then return ended('missing') end
if arg(2) ~= '' and fields[4] ~= arg(2) then return ended('died_anew') end
-- The first write is a ZREM, which Redis allows at maxmemory, and then every later write.
remove_dead_letter(id, fields[2], fields[3])
if arg(3) == 'trash' then
  log_line(job, { what = 'discarded', by = arg(5), operation = operation })
  redis.call('HSET', job, 'state', 'trash')
  local size = bytes_of(job)
  redis.call('HSET', job, 'size', int(size))
  redis.call('ZADD', TRASH, NOW_MS, id)
  account('trash', 1, size)
else
  redis.call('UNLINK', job)
end
increment('discarded')
emit_event('discarded', id, '', fields[2] or '')
return ended('discarded')
