#!lua flags=allow-oom
--@include subscriber
-- Hands deliveries of a channel back at once, nothing spent.
--
-- KEYS   1 alive   2 log
-- ARGV   1 consumer   2 the agent   3 entry ids, joined by spaces
-- Returns {'released', how many}; {'fenced'}
--
-- They go to a consumer that is never alive: whoever reads next for this agent takes them before what is new,
-- so the order of the log is kept.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local released = 0
for id in string.gmatch(ARGV[3], '%S+') do
  if is_pending(KEYS[2], ARGV[2], ARGV[1], id) then
    redis.call('XCLAIM', KEYS[2], ARGV[2], 'returned', 0, id, 'JUSTID')
    released = released + 1
  end
end
return {'released', released}
