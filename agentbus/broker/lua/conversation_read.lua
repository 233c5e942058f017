#!lua flags=allow-oom
--@include border
-- One of two agents has read their conversation up to an entry.
--
-- KEYS   1 read
-- ARGV   1 agent   2 entry id
-- Returns {entry id up to which it has read now}
--
-- Compared and written at once: handlers that run side by side finish in any order, and what was read stays read.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and string.match(known, '^%d+%-%d+$') and not precedes(known, ARGV[2]) then return {known} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return {ARGV[2]}
