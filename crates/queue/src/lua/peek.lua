-- Looks at the head of the inbox; takes nothing.
-- KEYS     none of its own
-- ARGV     1 how many, 2 longest payload that is handed over whole, 3 how much of a longer one, 4 bytes to look at in all
-- Returns  the length of the inbox, then per payload three strings: its length, its bytes (or the first of them), and where it was cut the SHA-1 of as
--          many bytes as would have been handed over ('' else)
-- Why      A length can only be reported by looking, and a payload that is no job may have 512 MB: what goes over the wire
--          is bounded here, at the source.
-- Bound    as many as asked for, and as many bytes in all (one payload always, so that a large one blocks nothing); the
--          hash covers a bounded part, for hashing 512 MB would stop Redis for seconds.
local many, whole_max, head, budget = tonumber(arg(1)), tonumber(arg(2)), tonumber(arg(3)), tonumber(arg(4))
local answers = { int(redis.call('LLEN', INBOX)) }
for i = 0, many - 1 do
  local raw = redis.call('LINDEX', INBOX, i)
  if not raw then break end
  local size = #raw
  local cut = size > whole_max
  budget = budget - size
  if budget < 0 and i > 0 then break end
  answers[#answers + 1] = int(size)
  answers[#answers + 1] = cut and string.sub(raw, 1, head) or raw
  answers[#answers + 1] = cut and redis.sha1hex(string.sub(raw, 1, whole_max)) or ''
end
return answers
