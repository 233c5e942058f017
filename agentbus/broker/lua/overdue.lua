#!lua flags=allow-oom
--@include clock
-- Tells of which messages copies are owed that their publishers have not made in time.
--
-- KEYS   1 owed   2 owed:messages
-- ARGV   1 most messages   2 most bytes of them, if there are more than one
-- Returns {server time in ms, when the next one comes to be overdue or '', message id, record or '', …}; ''
--         for a record that somebody removed by hand
--
-- Atomic because index and records must be of one moment: a record that is struck in between would look as if
-- somebody had removed it by hand. Writes nothing: whoever is told makes the copies, then strikes them off.
local now = now_ms()
local reply, bytes = {now, ''}, 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local record = redis.call('HGET', KEYS[2], id) or ''
  bytes = bytes + #record
  if #reply > 2 and bytes > tonumber(ARGV[2]) then break end
  reply[#reply + 1] = id
  reply[#reply + 1] = record
end
local later = string.format('(%.0f', now)
reply[2] = redis.call('ZRANGE', KEYS[1], later, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2] or ''
return reply
