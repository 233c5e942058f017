#!lua
-- Announces dead letters of one address on the log of a channel, and moves the cursor with them.
--
-- KEYS   1 log   2 cursors   3 ledger
-- ARGV   1 address   2 the cursor that the announcer read, '' for none   3 the new cursor   4 .. messages
-- Returns {'announced', how many}; {'moved', the cursor} when somebody else was first: nothing was written
--
-- Cursor and messages in one step: a worker that dies before or after leaves no letter out and none twice.
-- Not allow-oom: a full server refuses new messages, and the notice waits.
local cursor = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if cursor ~= ARGV[2] then return {'moved', cursor} end
for i = 4, #ARGV do redis.call('XADD', KEYS[1], '*', 'message', ARGV[i]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
if #ARGV > 3 then
  redis.call('HINCRBY', KEYS[3], 'accepted', #ARGV - 3)
  redis.call('HINCRBY', KEYS[3], 'added:log', #ARGV - 3)
end
return {'announced', #ARGV - 3}
