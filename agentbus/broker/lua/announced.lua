#!lua flags=allow-oom
-- Notes at an address how far its dead letters were announced, and forgets what was kept of those that left.
--
-- KEYS   1 ledger   2 unannounced
-- ARGV   1 the cursor as time (ms)   2 .. entries of `unannounced` that it covers
-- Returns how many were forgotten
--
-- Only forwards: a worker that was frozen must not make the scripts believe that less was announced.
local before = tonumber(redis.call('HGET', KEYS[1], 'announced')) or 0
if tonumber(ARGV[1]) > before then redis.call('HSET', KEYS[1], 'announced', ARGV[1]) end
local forgotten = 0
for i = 2, #ARGV do forgotten = forgotten + redis.call('XDEL', KEYS[2], ARGV[i]) end
return forgotten
