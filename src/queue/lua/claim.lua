-- Hands one job to one worker, under a lease and a token.
-- KEYS     none of its own; job:<id> follows from what stands first in the order
-- ARGV     1 worker, 2 token, 3 deliveries this worker has in hand, 4 1 when a claim with this token went unanswered
-- Returns  paused | empty | solo (a suspect waits until this worker's hands are empty, or runs in them) |
--          job, id, now_ms, 1 when alone, then the fields in FIELDS ('' where absent)
-- Why      Peek, check, then take: a job must never be in neither place. The delivery is counted here, so that a worker
--          that dies of it has been counted. The same token asked twice gets the same job, so a lost answer loses none.
-- Bound    at most 20 leftovers without a job are cleared away; a lost answer is looked for among the newest 500 leases.
local worker, token, hands, unanswered = arg(1), arg(2), tonumber(arg(3)), arg(4) == '1'
local FIELDS = { 'payload', 'deliveries', 'failures', 'doubts', 'crashes', 'postponements', 'put_off_ms', 'releases',
  'replays', 'unique', 'enq_ms', 'expires_ms', 'cancel', 'granted_wall_ms', 'granted_heap_bytes' }

local function delivered(id, alone)
  local answer = { 'job', id, int(NOW), alone and '1' or '0' }
  local fields = redis.call('HMGET', job_key(id), unpack(FIELDS))
  for i = 1, #FIELDS do answer[#answer + 1] = fields[i] or '' end
  return answer
end

local function take(id, from, alone)
  local job = job_key(id)
  redis.call('ZREM', from, id)
  redis.call('ZADD', LEASE, NOW + LEASE_MS, id)
  redis.call('HSET', job, 'state', 'leased', 'token', token, 'worker', worker, 'claimed_ms', int(NOW))
  redis.call('HINCRBY', job, 'deliveries', 1)
  if alone then redis.call('SET', SOLO_TURN, worker .. '|' .. id, 'PX', LEASE_MS) end
  return delivered(id, alone)
end

local function first(zset, highest)
  for _ = 1, 20 do
    local id = redis.call('ZRANGEBYSCORE', zset, '-inf', highest, 'LIMIT', 0, 1)[1]
    if not id then return nil end
    if redis.call('HEXISTS', job_key(id), 'payload') == 1 then return id end
    redis.call('ZREM', zset, id)
  end
end

-- One worker at a time runs suspects, one at a time, with nothing beside them.
local function solo()
  local turn = redis.call('GET', SOLO_TURN)
  if turn and string.sub(turn, 1, #worker + 1) == worker .. '|' then return { 'solo' } end
  if turn and turn ~= worker then return nil end
  local id = first(SOLO, NOW)
  if not id then
    if turn then redis.call('DEL', SOLO_TURN) end
    return nil
  end
  if not turn and NOW < tonumber(redis.call('HGET', META, 'solo_rest_ms') or 0) then return nil end
  if hands == 0 then return take(id, SOLO, true) end
  redis.call('DEL', SOLO_TURN) -- a write that is allowed at maxmemory, so that the next one is too
  redis.call('SET', SOLO_TURN, worker, 'PX', LEASE_MS)
  return { 'solo' }
end

if unanswered then
  for _, id in ipairs(redis.call('ZREVRANGE', LEASE, 0, 499)) do
    if redis.call('HGET', job_key(id), 'token') == token then
      redis.call('ZADD', LEASE, 'XX', NOW + LEASE_MS, id)
      return delivered(id, redis.call('GET', SOLO_TURN) == worker .. '|' .. id)
    end
  end
end
if redis.call('EXISTS', PAUSED) == 1 then return { 'paused' } end
local answer = solo()
if answer then return answer end
local id = first(READY, '+inf')
if not id then return { 'empty' } end
answer = take(id, READY, false)
if redis.call('ZCARD', READY) > 0 then wake() end
return answer
