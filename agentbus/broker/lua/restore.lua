#!lua flags=allow-oom
-- Puts an entry that a consumer runs back on its list of pending ones.
--
-- KEYS   1 alive   2 the stream that holds the entry
-- ARGV   1 consumer   2 entry id   3 the group where it is not that of an inbox
-- Returns {'restored'}; {'gone'} when it is pending, with whomever, waits again, or is no longer in the stream;
--         {'fenced'}
--
-- XGROUP DELCONSUMER or XACK by somebody else's hand takes an entry from its owner without a trace: it would
-- never be reclaimed, and its settlement would count for nothing. One step, so that nobody gets it in between.
-- A server that came back with older data hands out once more what comes after the group's position: pending
-- and waiting at once, such an entry would be counted, and settled, twice.
local name = ARGV[3] or 'inbox'

local function waits_again()
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == name then
      local last, number = string.match(fields['last-delivered-id'], '^(%d+)-(%d+)$')
      local time, place = string.match(ARGV[2], '^(%d+)-(%d+)$')
      last, number, time, place = tonumber(last), tonumber(number), tonumber(time), tonumber(place)
      return time > last or (time == last and place > number)
    end
  end
  return true
end

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
if #redis.call('XPENDING', KEYS[2], name, ARGV[2], ARGV[2], 1) > 0 then return {'gone'} end
if #redis.call('XRANGE', KEYS[2], ARGV[2], ARGV[2]) == 0 or waits_again() then return {'gone'} end
redis.call('XCLAIM', KEYS[2], name, ARGV[1], 0, ARGV[2], 'FORCE', 'JUSTID')
return {'restored'}
