#!lua flags=allow-oom
--@include clock
-- Announces when an address needs its next look.
--
-- KEYS   1 a sorted set of addresses by time: `wake` or `ticking`
-- ARGV   1 address   2 time in ms, or ''   3 or time from now in ms, or ''; the earlier one counts
-- Returns the score the address has now
--
-- Whoever holds a claim on the address may have looked before what is announced here was written, and would
-- take the address off the set. So a look that is no earlier than the one noted still changes the score, by
-- a millisecond: the claimer's comparison fails, and the address is looked at once more.
local due = tonumber(ARGV[2]) or math.huge
if ARGV[3] ~= '' then due = math.min(due, now_ms() + tonumber(ARGV[3])) end
if due == math.huge then return redis.error_reply('ERR announced without a time') end
local noted = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
if noted and due >= noted then due = noted - 1 end
redis.call('ZADD', KEYS[1], due, ARGV[1])
return string.format('%.0f', due)
