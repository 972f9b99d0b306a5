-- Reads the head of the inbox without removing anything.
-- KEYS     none of its own
-- ARGV     1 most payloads, 2 longest payload returned whole, 3 bytes returned of a longer one, 4 total bytes
--          to read
-- Returns  the length of the inbox, then per payload three strings: its length, its bytes (a prefix when it
--          is too long), and for a truncated one the SHA-1 of its first ARGV 2 bytes ('' otherwise)
-- Why      The length is only known after reading, and an invalid payload may have 512 MB: truncating here,
--          at the source, bounds what goes over the wire.
-- Bound    as many as requested, and ARGV 4 bytes in all (the first payload always, so that a large one does
--          not block the inbox). The hash covers a bounded prefix: hashing 512 MB would stop Redis for
--          seconds.
local limit, whole_max, head, bytes_left = tonumber(arg(1)), tonumber(arg(2)), tonumber(arg(3)), tonumber(arg(4))
local replies = { int(redis.call('LLEN', INBOX)) }
for i = 0, limit - 1 do
  local raw = redis.call('LINDEX', INBOX, i)
  if not raw then break end
  local size = #raw
  local cut = size > whole_max
  bytes_left = bytes_left - size
  if bytes_left < 0 and i > 0 then break end
  replies[#replies + 1] = int(size)
  replies[#replies + 1] = cut and string.sub(raw, 1, head) or raw
  replies[#replies + 1] = cut and redis.sha1hex(string.sub(raw, 1, whole_max)) or ''
end
return replies
