-- Whether a pair was analysed before.
-- KEYS     none of its own
-- ARGV     1 its name in `done`, 2 pair
-- Returns  1 | 0
-- Why      A mark counts only while its result can be read, or was posted.
-- Bound    one pair.
return { is_done(arg(1), arg(2)) and '1' or '0' }
