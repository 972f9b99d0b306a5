-- Settles a delivery as a dead letter and stores its evidence.
-- KEYS     1 job:<id>, 2 unique:<sha256>, 3 dead:kind:<kind>
-- ARGV     1 id, 2 token, 3 kind, 4 reason (JSON), 5 the same in at most 1 KiB, 6 pair, 7 what ended (JSON), 8 the
--          death as a report (JSON), 9 first bytes of an unreadable payload ('' otherwise), 10 its full length,
--          11 its hash, prefixed with the algorithm, 12 host that the failure concerns, 13 its sentence,
--          14 this build, 15 the host, where it killed its child there ('' otherwise)
-- Returns  settled | superseded
-- Why      The lock is released in the same step, so the pair can be enqueued again as soon as the cause is
--          fixed. The follow-up job is admitted now, whatever this one died of, and only now: a replay covers
--          this pair only.
-- Bound    one job and its follow-up. At maxmemory: 4 KiB.
local id, token, kind, pair, raw = arg(1), arg(2), arg(3), arg(6), arg(9)
local job, memory = key(1), read_memory()
local lean = is_full() or (memory and memory.used + #arg(4) > memory.max * LEAN_SHARE)
local follow_up = follow_up_of(id, job)
read_result_keys(id, pair) -- reads derived keys before the first write
if arg(15) ~= '' and redis.call('HGET', job, 'token') == token then
  -- Reads what `end_delivery` reads, before the first write.
  redis.call('SCARD', host_permits_key(arg(15)))
  redis.call('ZCARD', host_waiters_key(arg(15)))
  QUARANTINE.record_kill(arg(15))
end
local ended = end_delivery(id, job, token)
if ended ~= 'ended' then return { ended } end

if raw ~= '' then
  redis.call('HSET', job, 'raw', raw, 'raw_length', arg(10), 'raw_hash', arg(11))
  redis.call('HDEL', job, 'payload')
end
log_delivery(job, 'dead', kind)
bury(id, job, kind, lean and arg(5) or arg(4), arg(12), arg(13), arg(14))
release_unique_lock(key(2), id)
store_result(id, pair, arg(7), arg(8), false)
emit_event('buried', id, pair, kind)
admit_follow_up(follow_up, pair)
return { 'settled' }
