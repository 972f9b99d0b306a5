-- Records what an operator did.
-- KEYS     1 audit
-- ARGV     1 what, 2 operator, 3 reason, 4 selection, 5 number of jobs, 6 operation ('' none), 7 audit entries kept
-- Returns  recorded
-- Why      A script, because XADD by itself is refused at maxmemory.
-- Bound    one entry. At maxmemory: 2 KiB.
redis.call('HDEL', META, '') -- allowed at maxmemory, and so is every later write
redis.pcall('XADD', key(1), 'MAXLEN', '~', arg(7), '*', 'what', arg(1), 'by', arg(2), 'why', arg(3), 'selection', arg(4),
  'count', arg(5), 'operation', arg(6))
return { 'recorded' }
