#!lua flags=allow-oom
--@include clock
--@include history
-- Removes the oldest entries of a channel's log beyond what is kept. Readers do not hold it back: one that is
-- too late is told of a gap.
--
-- KEYS   1 log   2 archived
-- ARGV   1 most entries kept   2 longest age (ms)   3 most bytes   4 most entries removed in this call
--        5 1 = nothing goes that the archive has not committed
-- Returns {entries removed, 1 if there is more to do}
--
-- One script, so that what is measured is what is trimmed.
local border = ARGV[5] == '1' and (redis.call('HGET', KEYS[2], 'log') or '0-0') or LARGEST
local removed, more = trim_front(KEYS[1], border, tonumber(ARGV[1]), now_ms() - tonumber(ARGV[2]),
  tonumber(ARGV[3]), tonumber(ARGV[4]))
return {removed, more and 1 or 0}
