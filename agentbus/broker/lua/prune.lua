#!lua flags=allow-oom
--@include border
--@include history
-- Removes history of messages that ended in a way of which no history is kept.
--
-- KEYS   1 outcomes   2 retention   3 archived   4 ended   5 resolved   6 returned   7..11 lanes
-- ARGV   1 outcomes kept, joined by spaces   2 most records of outcomes in this call
--        3 1 = nothing goes that the archive has not committed
-- Returns {entries removed, 1 if there is more to do}
--
-- Reads the records after the last one it has read before. The cursor and the removals are one step, but the
-- removals could be repeated without harm. Never touches what is waiting or held, whatever a record says.
local SOURCES = {'returned', 'critical', 'high', 'normal', 'low', 'background'}
local ENDINGS = {
  processed = true, expired = true, cancelled = true, discarded = true, resolved = true, moved = true,
}
local kept, most = {}, tonumber(ARGV[2])
for outcome in string.gmatch(ARGV[1], '%S+') do kept[outcome] = true end
local streams = {ended = KEYS[4], resolved = KEYS[5]}
for i, name in ipairs(SOURCES) do streams[name] = KEYS[5 + i] end

-- Another list of outcomes: what the last one kept may have to go.
local place = redis.call('HMGET', KEYS[2], 'pruned', 'pruned_for')
local cursor = place[2] == ARGV[1] and place[1] or '0-0'
local last = ARGV[3] == '1' and (redis.call('HGET', KEYS[3], 'outcomes') or '0-0') or '+'
if cursor == LARGEST or (last ~= '+' and not precedes(cursor, last)) then return {0, 0} end

local groups = {}
local function ended_here(name, id)
  if name == 'ended' or name == 'resolved' then return true end
  if groups[name] == nil then groups[name] = group_of(streams[name]) or false end
  local group = groups[name]
  if not group or precedes(group['last-delivered-id'], id) then return false end
  return group.pending == 0 or #redis.call('XPENDING', streams[name], 'inbox', id, id, 1) == 0
end

local removed, looked = 0, 0
local function drop(name, text)
  local gone = {}
  for id in string.gmatch(text, '%d+%-%d+') do
    looked = looked + 1
    if ended_here(name, id) then gone[#gone + 1] = id end
  end
  -- Lua cannot unpack more than some 8,000 values.
  for from = 1, #gone, 4000 do
    local count = redis.pcall('XDEL', streams[name], unpack(gone, from, math.min(from + 3999, #gone)))
    if type(count) == 'number' then removed = removed + count end
  end
end

local function outcome_of(fields)
  for f = 1, #fields, 2 do
    if fields[f] == 'outcome' then return fields[f + 1] end
  end
  return nil
end

local records, read = redis.call('XRANGE', KEYS[1], '(' .. cursor, last, 'COUNT', most), 0
for _, record in ipairs(records) do
  local fields = record[2]
  local outcome = outcome_of(fields)
  if ENDINGS[outcome] and not kept[outcome] then
    for f = 1, #fields, 2 do
      if streams[fields[f]] then drop(fields[f], fields[f + 1]) end
    end
  end
  cursor, read = record[1], read + 1
  if looked >= 2000 then break end
end
if read > 0 then redis.call('HSET', KEYS[2], 'pruned', cursor, 'pruned_for', ARGV[1]) end
return {removed, (read == most or read < #records) and 1 or 0}
