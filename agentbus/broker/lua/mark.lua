#!lua flags=allow-oom
-- Marks the one suspect that a consumer is about to start.
--
-- KEYS   1 alive   2 started
-- ARGV   1 consumer   2 source   3 entry id
-- Returns {'marked'}; {'fenced'}
--
-- Written before the handler runs: if the process dies now, this message is charged and its neighbours,
-- suspects too but not started, are not.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return {'marked'}
