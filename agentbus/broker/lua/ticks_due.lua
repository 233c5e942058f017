#!lua flags=allow-oom
--@include clock
-- Reads the schedules of one address whose tick has come; writes nothing.
--
-- KEYS   1 ticks   2 schedules
-- ARGV   1 most schedules   2 how many of the earliest to leave out: those that cannot tick now
-- Returns {server time in ms, the earliest tick of any other or '', id, tick, definition or '', state or '' …}
--
-- Atomic so that the tick belongs to the state it is returned with.
local MOST_BYTES = 1048576
local now, most, skipped, bytes = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2]), 0
local found = redis.call('ZRANGE', KEYS[1], skipped, skipped + most, 'WITHSCORES')
local reply = {now, ''}
for i = 1, #found, 2 do
  local id, tick = found[i], found[i + 1]
  if tonumber(tick) > now or #reply >= 2 + 4 * most or bytes >= MOST_BYTES then
    reply[2] = tick
    break
  end
  local stored = redis.call('HMGET', KEYS[2], id, id .. ':state')
  for _, value in ipairs({id, tick, stored[1] or '', stored[2] or ''}) do reply[#reply + 1] = value end
  bytes = bytes + #(stored[1] or '')
end
return reply
