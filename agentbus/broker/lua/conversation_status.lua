#!lua flags=allow-oom
-- Counts what one of two agents has not read of their conversation, and shows its last message.
--
-- KEYS   1 log   2 read
-- ARGV   1 agent   2 most to count
-- Returns {unread, last entry id or '', last message or '', entry up to which it has read or ''}
--
-- Atomic, so that the count and the end of the log are of one moment. Counts the messages of the other one behind
-- the cursor, at most so many of them and some four megabytes: the rest is left uncounted.
local agent, most = ARGV[1], tonumber(ARGV[2])
local known = redis.call('HGET', KEYS[2], agent)
local read = known and string.match(known, '^%d+%-%d+$') or '0-0'

-- The sender stands before anything that it writes freely; within a JSON text its quotes are escaped.
local function sender_of(message) return string.match(message, '"from_agent":"([^"]*)"') or '' end

local function message_of(fields)
  for f = 1, #fields, 2 do if fields[f] == 'message' then return fields[f + 1] end end
  return ''
end

local unread, bytes, after = 0, 0, '(' .. read
while unread < most and bytes < 4194304 do
  local entries = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 20)
  for _, entry in ipairs(entries) do
    local message = message_of(entry[2])
    bytes = bytes + #message
    if sender_of(message) ~= agent then unread = unread + 1 end
    after = '(' .. entry[1]
  end
  if #entries < 20 then break end
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {math.min(unread, most), last and last[1] or '', last and message_of(last[2]) or '', read}
