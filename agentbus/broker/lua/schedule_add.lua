#!lua
-- Adds a schedule, once.
--
-- KEYS   1 ticks   2 schedules
-- ARGV   1 schedule id   2 its definition (JSON)   3 its first tick (ms)
-- Returns {'added'}
--         {'known', its definition}   the id is taken; nothing written
--
-- Atomic so that of two that add the same id one wins, and no definition is without its tick.
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known then return {'known', known} end
local state = {enabled = true, sent = 0, missed = 0, next_send_at = tonumber(ARGV[3])}
-- The tick first: it says at once when `ticks` is no sorted set.
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2], ARGV[1] .. ':state', cjson.encode(state))
return {'added'}
