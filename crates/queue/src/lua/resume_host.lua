-- Ends the rest of a host, whether an operator or its breaker made it rest, and wakes as many of its waiters as it has
-- room for.
-- KEYS     1 audit
-- ARGV     1 host, 2 operator, 3 audit entries kept
-- Returns  resumed | not_resting, the operator's rest ('' none), its breaker ('' none), both JSON
-- Why      An operator who knows that the host is well again must not wait for its next probe.
-- Bound    64 waiters; those beyond are woken by who leaves. At maxmemory: what it moves, nothing more.
local host = arg(1)
if redis.call('TYPE', HOSTS.rests).ok ~= 'hash' then redis.call('DEL', HOSTS.rests) end
local by_hand = end_by_hand(host) and redis.call('HGET', HOSTS.rests, host) or ''
local breaker = score_of(HOSTS.resting, host) and redis.pcall('HGET', HOSTS.breakers, host) or ''
local rested = rest_end(host) ~= nil
rest_ends[host] = false
local opening = plan_opening(host)
redis.call('HDEL', HOSTS.rests, host) -- allowed at maxmemory, and so is every later write
redis.pcall('HDEL', HOSTS.breakers, host)
redis.pcall('ZREM', HOSTS.failed, host)
redis.pcall('ZREM', HOSTS.resting, host)
open_host(opening)
if rested then
  redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(3), '*', 'what', 'resume host ' .. host, 'by', arg(2), 'why', '')
end
return { rested and 'resumed' or 'not_resting', by_hand, type(breaker) == 'string' and breaker or '' }
