-- Releases an unfinished delivery: un-counts it and returns the job to its old place.
-- KEYS     1 job:<id>
-- ARGV     1 id, 2 token, 3 pair, 4 counted|while_fetching
-- Returns  settled | superseded
-- Why      A release is itself counted (`releases`): a job that is always released would circulate forever. Not
--          what was only being fetched: a worker that stops, or has to run a suspect, releases hundreds of those, and
--          deploys one after another would make suspects of them all.
-- Bound    one job.
local id, job = arg(1), key(1)
local unique = PREFIX .. 'unique:' .. (redis.call('HGET', job, 'unique') or '')
redis.call('EXISTS', unique) -- reads a derived key before the first write
local ended = end_delivery(id, job, arg(2))
if ended ~= 'ended' then return { ended } end

redis.call('HINCRBY', job, 'deliveries', -1)
if arg(4) == 'counted' then redis.call('HINCRBY', job, 'releases', 1) end
log_delivery(job, 'released', arg(4))
make_waiting(id, job)
recount_job(job, unique)
increment('released')
emit_event('released', id, arg(3), '')
wake()
return { 'settled' }
