-- Hands a delivery back unfinished: the delivery is taken back from its count, the job goes to its old place.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 pair
-- Returns  settled | superseded
-- Why      Even a graceful return is counted (`releases`): a job that is always handed back would go round for ever.
-- Bound    one job.
local id, job = arg(1), key(1)
local ended = end_delivery(id, job, arg(2))
if ended ~= 'ended' then return { ended } end

redis.call('HINCRBY', job, 'deliveries', -1)
redis.call('HINCRBY', job, 'releases', 1)
make_waiting(id, job)
count('released')
event('released', id, arg(3), '')
wake()
return { 'settled' }
