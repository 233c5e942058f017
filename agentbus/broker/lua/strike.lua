#!lua flags=allow-oom
-- Strikes off copies that are owed no more: they were made, or never will be.
--
-- KEYS   1 owed   2 owed:messages
-- ARGV   message id, agents with commas between them or '' for all, …
-- Returns how many messages owe nothing any more
--
-- Atomic because two may strike at one message, each the copies it has made: none may put back what the other
-- has struck off.
redis.call('ZCARD', KEYS[1])
redis.call('HLEN', KEYS[2])

-- The record without some of its agents; nil when none is left, or it is no record.
local function without(record, agents)
  local before, named, after = string.match(record, '^(%d+ %S+ )(%S+)( .*)$')
  local left = {}
  for agent in string.gmatch(named or '', '[^,]+') do
    if not string.find(',' .. agents .. ',', ',' .. agent .. ',', 1, true) then left[#left + 1] = agent end
  end
  return #left > 0 and before .. table.concat(left, ',') .. after or nil
end

local ended = 0
for i = 1, #ARGV, 2 do
  local id, agents = ARGV[i], ARGV[i + 1]
  local record = agents ~= '' and redis.call('HGET', KEYS[2], id)
  local left = record and without(record, agents)
  if left then
    redis.call('HSET', KEYS[2], id, left)
  else
    ended = ended + redis.call('HDEL', KEYS[2], id)
    redis.call('ZREM', KEYS[1], id)
  end
end
return ended
