#!lua flags=allow-oom
-- Removes an agent's cursor at a channel, and everything that is kept with it.
--
-- KEYS   1 log   2 subscriber   3 alive   4 started   5 crashes   6 reads
-- ARGV   1 the agent
-- Returns {'forgotten', entries that were handed out and not settled}; {'alive', a consumer that reads};
--         {'unknown'} when there is no such cursor
--
-- One step: a consumer that comes in between would read by a cursor that is gone.
local alive = redis.call('HKEYS', KEYS[3])
if #alive > 0 then return {'alive', alive[1]} end
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
local known = redis.call('EXISTS', KEYS[2]) == 1
if pending.err and not known then return {'unknown'} end
if not pending.err then redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1]) end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return {'forgotten', pending.err and 0 or pending[1]}
