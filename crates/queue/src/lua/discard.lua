-- Deletes one dead letter for good.
-- KEYS     1 job:<id>
-- ARGV     1 id
-- Returns  discarded | missing
-- Why      Letter, index and byte count change together.
-- Bound    one letter.
local fields = redis.call('HMGET', key(1), 'state', 'kind', 'size')
if fields[1] ~= 'dead' then return { 'missing' } end
remove_dead_letter(arg(1), fields[2], fields[3])
redis.call('UNLINK', key(1))
increment('discarded')
emit_event('discarded', arg(1), '', fields[2] or '')
return { 'discarded' }
