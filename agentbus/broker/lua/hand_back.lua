#!lua flags=allow-oom
--@include subscriber
-- Hands deliveries of a channel back at once, nothing spent.
--
-- KEYS   1 alive   2 log   3 subscriber
-- ARGV   1 consumer   2 the agent   3 entry ids, joined by spaces
-- Returns {'released', how many, how many of them retention had removed}; {'fenced'}
--
-- They go to a consumer that is never alive: whoever reads next for this agent takes them before what is new,
-- so the order of the log is kept. An XCLAIM of what was removed would drop it without a word.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local released, missed = 0, 0
for id in string.gmatch(ARGV[3], '%S+') do
  if is_pending(KEYS[2], ARGV[2], ARGV[1], id) then
    if #redis.call('XRANGE', KEYS[2], id, id) == 0 then
      missed = missed + let_go(KEYS[2], ARGV[2], KEYS[3], id)
    else
      redis.call('XCLAIM', KEYS[2], ARGV[2], 'returned', 0, id, 'JUSTID')
    end
    released = released + 1
  end
end
return {'released', released, missed}
