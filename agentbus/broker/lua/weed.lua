#!lua flags=allow-oom
--@include entry
--@include record
--@include marks
-- Ends what a consumer was handed although it had been cancelled.
--
-- KEYS   1 alive   2 ledger   3 outcomes   4 cancelled   5 returned   6..10 lane:critical .. lane:background
-- ARGV   1 consumer   2, 3 .. source and entry id
-- Returns {1 if it was cancelled and has ended now, for each entry}; {'fenced'}
--
-- A parked read is the server's own and knows of no marks. One step, so that a message ends once.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local answers, cancelled = {}, {}
for i = 2, #ARGV, 2 do
  local source, id = tonumber(ARGV[i]), ARGV[i + 1]
  local by = take_mark(KEYS[4], source, id)
  if by then end_cancelled(cancelled, KEYS[5 + source], source, id, by) end
  answers[#answers + 1] = by and 1 or 0
end
write_cancelled(KEYS[2], KEYS[3], cancelled)
return answers
