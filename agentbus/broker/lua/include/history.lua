-- Measures of streams that hold history.
local LARGEST = '18446744073709551615-18446744073709551615'

local function time_of(id) return tonumber(string.match(id, '^%d+')) end

-- The first id of a millisecond. Entries made by hand may claim a time that Lua would print as a negative one.
local function id_at(time) return string.format('%d-0', math.max(0, math.min(time, 9007199254740991))) end

-- The group of an inbox in one of its streams, as a table; nil where there is none.
local function group_of(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == 'inbox' then return fields end
  end
  return nil
end

-- Bytes of one entry, on average; the server looks at the oldest ones.
local function average_size(stream, length)
  local size = length > 0 and redis.call('MEMORY', 'USAGE', stream, 'SAMPLES', 5) or 0
  return math.max(1, size / math.max(1, length))
end

-- Entries that a step may read: their bodies come along, four megabytes of them at most.
local function readable(average, most)
  return math.max(1, math.min(most, math.floor(4194304 / average)))
end

-- Removes the oldest entries of a stream without a group beyond what is kept; nothing from `border` on.
-- Returns how many, and whether there are more to remove. `~` works in whole nodes: up to a hundred entries
-- more are kept, and the cost stays in proportion to what goes.
local function trim_front(stream, border, keep, oldest_kept, bytes, most)
  local length = redis.call('XLEN', stream)
  if length == 0 then return 0, false end
  local excess = length - math.min(keep, math.floor(bytes / average_size(stream, length)))
  local gone = 0
  if excess > 0 then
    gone = redis.call('XTRIM', stream, 'MINID', '~', border, 'LIMIT', math.min(excess, most))
  end
  local more = gone > 0 and excess - gone > 200
  local too_old = id_at(math.min(oldest_kept, time_of(border)))
  return gone + redis.call('XTRIM', stream, 'MINID', '~', too_old, 'LIMIT', most), more
end
