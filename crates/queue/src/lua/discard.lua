-- Deletes one dead letter for good.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 the `died_ms` that the caller has read ('': not checked)
-- Returns  discarded | missing | died_anew
-- Why      Letter, index and byte count change together. A letter that was replayed and died anew since the
--          caller read it is another death, of which the caller has no copy: it stays.
-- Bound    one letter.
local fields = redis.call('HMGET', key(1), 'state', 'kind', 'size', 'died_ms')
if fields[1] ~= 'dead' then return { 'missing' } end
if arg(2) ~= '' and fields[4] ~= arg(2) then return { 'died_anew' } end
-- The first write is a ZREM, which Redis allows at maxmemory, and then every later write.
remove_dead_letter(arg(1), fields[2], fields[3])
redis.call('UNLINK', key(1))
increment('discarded')
emit_event('discarded', arg(1), '', fields[2] or '')
return { 'discarded' }
