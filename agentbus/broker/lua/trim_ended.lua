#!lua flags=allow-oom
--@include clock
--@include border
--@include history
--@include committed
-- Removes what ended outside of the lanes, and resolved dead letters, beyond what is kept.
--
-- KEYS   1 ended   2 resolved   3 dead   4 outcomes   5 archived   6 retention
-- ARGV   1 most ended entries kept   2 their longest age (ms)   3 most bytes of them
--        4 most entries removed per stream in this call   5 1 = nothing goes that the archive has not committed
--        6 most dead letters, resolved ones included   7 longest age of a dead letter (ms)
-- Returns {entries removed, 1 if there is more to do}
--
-- One script, so that what is measured is what is trimmed. Resolved letters make room for unresolved ones.
local most, now = tonumber(ARGV[4]), now_ms()
local borders = {ended = LARGEST, resolved = LARGEST}
if ARGV[5] == '1' then
  borders = committed_borders(KEYS[6], KEYS[5], KEYS[4], {ended = KEYS[1], resolved = KEYS[2]})
end
local removed, more = trim_front(KEYS[1], borders.ended, tonumber(ARGV[1]), now - tonumber(ARGV[2]),
  tonumber(ARGV[3]), most)

-- One by one, not in whole nodes: a letter that stays over the limit keeps a new one out.
local function make_room()
  local length = redis.call('XLEN', KEYS[2])
  local excess = math.min(length, length + redis.call('XLEN', KEYS[3]) - tonumber(ARGV[6]))
  if excess <= 0 then return 0, false end
  local count = readable(average_size(KEYS[2], length), math.min(excess, most, 500))
  local gone = {}
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', borders.resolved, 'COUNT', count)) do
    gone[#gone + 1] = entry[1]
  end
  if #gone > 0 then redis.call('XDEL', KEYS[2], unpack(gone)) end
  return #gone, #gone > 0 and excess > #gone
end

local roomier, more_room = make_room()
local too_old = id_at(math.min(now - tonumber(ARGV[7]), time_of(borders.resolved)))
removed = removed + roomier + redis.call('XTRIM', KEYS[2], 'MINID', '~', too_old, 'LIMIT', most)
return {removed, (more or more_room) and 1 or 0}
