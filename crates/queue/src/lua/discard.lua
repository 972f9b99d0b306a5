-- Forgets one dead letter for good.
-- KEYS     1 job:<id>
-- ARGV     1 id
-- Returns  discarded | missing
-- Why      Letter, index and byte count are one fact.
-- Bound    one letter.
local j = redis.call('HMGET', key(1), 'state', 'kind', 'size')
if j[1] ~= 'dead' then return { 'missing' } end
remove_dead_letter(arg(1), j[2], j[3])
redis.call('UNLINK', key(1))
count('discarded')
event('discarded', arg(1), '', j[2] or '')
return { 'discarded' }
