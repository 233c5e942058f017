#!lua flags=allow-oom
-- Cancels a schedule, or removes one that has ended.
--
-- KEYS   1 ticks   2 schedules
-- ARGV   1 schedule id   2 '' or the score in `ticks` that it must have (ms)
-- Returns 1 when it was there, else 0
--
-- Atomic because a schedule with a tick and without a definition, or the other way round, would stay.
local id = ARGV[1]
if ARGV[2] ~= '' and tonumber(redis.call('ZSCORE', KEYS[1], id)) ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[1], id)
local removed = redis.call('HDEL', KEYS[2], id, id .. ':state')
return removed > 0 and 1 or 0
