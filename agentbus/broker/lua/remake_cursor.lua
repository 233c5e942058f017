#!lua flags=allow-oom
--@include subscriber
-- Makes an agent's cursor anew under its living consumers, where somebody deleted the group or the log.
--
-- KEYS   1 subscriber   2 log
-- ARGV   1 the agent
-- Returns 1 if it was missing, else 0
--
-- It goes on where it stood: from the start it would hand out again whatever the log holds. What a consumer runs
-- now its audit puts back on the list. One step, so that the position fits the log.
local stood = redis.call('HGET', KEYS[1], 'last') or '0-0'
local made = remake_group(KEYS[2], ARGV[1], KEYS[1], stood)
if type(made) == 'table' then return redis.error_reply(made.err .. ' key ' .. KEYS[2]) end
return made and 1 or 0
