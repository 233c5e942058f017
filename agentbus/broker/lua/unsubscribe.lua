#!lua flags=allow-oom
--@include subscriber
-- A consumer of a subscribing agent goes; the agent's cursor stays.
--
-- KEYS   1 alive   2 started   3 subscriber   4 log
-- ARGV   1 consumer   2 the agent
-- Returns {'left', entries still pending}: whoever reads next for this agent takes them first
--
-- One step, so that the next reader never finds the place taken by somebody who has gone.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[3], 'active') == ARGV[1] then redis.call('HDEL', KEYS[3], 'active') end
local left = #pending_of(KEYS[4], ARGV[2], ARGV[1], 1000)
remove_if_idle(KEYS[4], ARGV[2], ARGV[1])
return {'left', left}
