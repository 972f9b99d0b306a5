-- Moves jobs whose time has come from scheduled to where they wait.
-- KEYS     none of its own; job:<id> follows from what is due
-- ARGV     1 how many at most
-- Returns  how many were looked at
-- Why      A job that is neither scheduled nor ready is lost.
-- Bound    as many as asked for (Rust asks for 200).
local due = redis.call('ZRANGEBYSCORE', SCHEDULED, '-inf', NOW, 'LIMIT', 0, arg(1))
local promoted = 0
for _, id in ipairs(due) do
  local job = job_key(id)
  local exists = redis.call('HEXISTS', job, 'payload') == 1
  redis.call('ZREM', SCHEDULED, id)
  if exists then
    park(id, job)
    promoted = promoted + 1
  end
end
if promoted > 0 then wake() end
return { int(#due) }
