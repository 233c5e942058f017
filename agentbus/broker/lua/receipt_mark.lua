#!lua flags=allow-oom
--@include clock
-- Notes what became of one message at some of its recipients.
--
-- KEYS   1 rows
-- ARGV   1, 2 .. field and value; the value '' stands for now (ms)
-- Returns {'marked', how many were new}; {'gone'} when its receipts are kept no more
--
-- The first time wins: a message that is handed out again was delivered before, and marks may be repeated. One
-- script, so that a mark cannot make the key anew that expired a moment ago.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone'} end
local now, marked = now_ms(), 0
for i = 1, #ARGV, 2 do
  local value = ARGV[i + 1]
  if value == '' then value = now end
  marked = marked + redis.call('HSETNX', KEYS[1], ARGV[i], value)
end
return {'marked', marked}
