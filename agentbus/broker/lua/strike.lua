#!lua flags=allow-oom
-- Strikes off copies that are owed no more: they were made, or never will be.
--
-- KEYS   1 owed   2 owed:messages
-- ARGV   1 how many messages owe nothing more   2 .. their ids   then message id, agents with commas between
--        them, … of those that still owe copies to others
-- Returns how many messages owe nothing any more
--
-- Atomic because two may strike at one message, each the copies it has made: none may put back what the other
-- has struck off.
redis.call('ZCARD', KEYS[1])
redis.call('HLEN', KEYS[2])
local whole = tonumber(ARGV[1])
local ended = {}
for i = 2, whole + 1 do ended[#ended + 1] = ARGV[i] end

-- The record without some of its agents; nil when none is left, or it is no record.
local function without(record, agents)
  local before, named, after = string.match(record, '^(%d+ %S+ )(%S+)( .*)$')
  local left = {}
  for agent in string.gmatch(named or '', '[^,]+') do
    if not string.find(',' .. agents .. ',', ',' .. agent .. ',', 1, true) then left[#left + 1] = agent end
  end
  return #left > 0 and before .. table.concat(left, ',') .. after or nil
end

for i = whole + 2, #ARGV, 2 do
  local record = redis.call('HGET', KEYS[2], ARGV[i])
  local left = record and without(record, ARGV[i + 1])
  if left then
    redis.call('HSET', KEYS[2], ARGV[i], left)
  else
    ended[#ended + 1] = ARGV[i]
  end
end

local struck = 0
for first = 1, #ended, 1000 do
  local last = math.min(first + 999, #ended)
  redis.call('ZREM', KEYS[1], unpack(ended, first, last))
  struck = struck + redis.call('HDEL', KEYS[2], unpack(ended, first, last))
end
return struck
