#!lua flags=allow-oom
-- Announces when an address needs its next look.
--
-- KEYS   1 a sorted set of addresses by time: `wake`, `ticking` or `owing`
-- ARGV   1 address   2 time in ms
-- Returns the score the address has now
--
-- Whoever holds a claim on the address may have looked before what is announced here was written, and would
-- take the address off the set. So a look that is no earlier than the one noted still changes the score, by
-- a millisecond: the claimer's comparison fails, and the address is looked at once more.
local due = tonumber(ARGV[2])
local noted = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
if noted and due >= noted then due = noted - 1 end
redis.call('ZADD', KEYS[1], due, ARGV[1])
return string.format('%.0f', due)
