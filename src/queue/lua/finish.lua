-- Settles a delivery as done or skipped: the job leaves, what became of it stays.
-- KEYS     1 job:<id>, 2 unique:<sha256>, 3 report:<pair>, 4 done:<sha256>
-- ARGV     1 id, 2 token, 3 done|skipped, 4 why, 5 pair, 6 report (JSON), 7 its life in ms, 8 life of `done` in ms
-- Returns  settled | superseded
-- Why      Report, memory and the end of the job are one fact. A second settle with the same token finds the token in
--          `done` and is told that it was settled, not that it came too late.
-- Bound    one job.
local id, token, state, why, pair = arg(1), arg(2), arg(3), arg(4), arg(5)
local ended = end_delivery(id, key(1), token)
if ended == 'superseded' and redis.call('GET', key(4)) == token then ended = 'settled' end
if ended ~= 'ended' then return { ended } end

redis.call('UNLINK', key(1))
unlock(key(2), id)
if state == 'done' then
  redis.call('SET', key(3), arg(6), 'PX', arg(7))
  redis.call('SET', key(4), token, 'PX', arg(8))
else
  redis.call('SET', key(3), arg(6), 'PX', arg(7), 'NX') -- a late skip never replaces what was found before
end
count(state)
if state == 'skipped' then count('skipped:' .. why) end
event(state, id, pair, why)
return { 'settled' }
