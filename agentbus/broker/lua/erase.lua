#!lua flags=allow-oom
--@include border
-- Removes entries whose messages have ended, by name; or only tells which have.
--
-- KEYS   1 returned   2..6 lane:critical .. lane:background   7 ended   8 resolved
-- ARGV   1 `erase`, or `look`   2, 3 .. which key (1 .. 8) and entry id
-- Returns for each one 'ended' (and it is gone now, if it was to be erased), 'waiting', 'held' or 'gone'
--
-- One script, because what has ended when somebody looks is known only then: an entry that waits or is held is
-- never removed. The records of outcomes stay; they hold no content.
local groups = {}

local function last_delivered(stream)
  if groups[stream] then return groups[stream] end
  local found, last = redis.pcall('XINFO', 'GROUPS', stream), '0-0'
  for _, group in ipairs(found.err and {} or found) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == 'inbox' then last = fields['last-delivered-id'] end
  end
  groups[stream] = last
  return last
end

local function state_of(place, id)
  local stream = KEYS[place]
  if #redis.call('XRANGE', stream, id, id) == 0 then return 'gone' end
  if place > 6 then return 'ended' end
  if precedes(last_delivered(stream), id) then return 'waiting' end
  return #redis.call('XPENDING', stream, 'inbox', id, id, 1) > 0 and 'held' or 'ended'
end

local answers = {}
for i = 2, #ARGV, 2 do
  local place, id = tonumber(ARGV[i]), ARGV[i + 1]
  local state = state_of(place, id)
  if state == 'ended' and ARGV[1] == 'erase' then redis.call('XDEL', KEYS[place], id) end
  answers[#answers + 1] = state
end
return answers
