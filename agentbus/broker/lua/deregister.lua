#!lua flags=allow-oom
--@include clock
-- An instance of an agent serves no more.
--
-- KEYS   1 the agent's record
-- ARGV   1 instance id
-- Returns {server time in ms}
--
-- The agent stays known: only `forget` takes it out. One script, so that the time it was last seen is that of
-- the server that removed it.
redis.call('HDEL', KEYS[1], 'instance:' .. ARGV[1])
return {now_ms()}
