#!lua flags=allow-oom
--@include clock
--@include border
-- Removes ended entries beyond what is kept as history.
--
-- KEYS   1 outcomes   2 returned   3..7 lane:critical .. lane:background   8 archived
-- ARGV   1 most ended entries kept per stream   2 longest age (ms)   3 most bytes per stream
--        4 most entries removed per stream in this call   5 1 = keep what the archive has not committed
-- Returns {entries removed, 1 if there is more to do}
--
-- Never past an unsettled entry: the range ends before the oldest pending one and at the group's last
-- delivered. Behind an entry held for long, ended ones are removed one by one. `~` works in whole nodes:
-- up to a hundred entries more are kept, and the cost stays in proportion to what goes.
local keep, age, bytes, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local oldest_kept = now_ms() - age
local removed, more, oldest_left = 0, 0, nil
local SOURCES = {'returned', 'critical', 'high', 'normal', 'low', 'background'}
local committed = ARGV[5] == '1' and read_borders(KEYS[8], SOURCES)

local function group_of(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == 'inbox' then return fields end
  end
  return nil
end

local function time_of(id) return tonumber(string.match(id, '^%d+')) end

-- Entries between the first held one and the last delivered: remove those nobody holds.
local function remove_behind(stream, first_held, last, budget, average, uncommitted)
  -- Reading brings the bodies along: four megabytes of them at most.
  local count = math.max(1, math.min(budget, 500, math.floor(4194304 / average)))
  local entries = redis.call('XRANGE', stream, first_held, last, 'COUNT', count)
  if #entries == 0 then return 0 end
  local held = {}
  local pending = redis.call('XPENDING', stream, 'inbox', first_held, entries[#entries][1], 1000)
  if #pending == 1000 then return 0 end
  for _, item in ipairs(pending) do held[item[1]] = true end
  for _, id in ipairs(uncommitted) do held[id] = true end
  local ended = {}
  for _, entry in ipairs(entries) do
    if not held[entry[1]] then ended[#ended + 1] = entry[1] end
  end
  if #ended > 0 then redis.call('XDEL', stream, unpack(ended)) end
  return #ended
end

local function note_oldest(stream)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first and (not oldest_left or time_of(first[1]) < oldest_left) then oldest_left = time_of(first[1]) end
end

-- Bytes of one entry, on average; the server looks at the oldest ones.
local function average_size(stream, length)
  local size = length > 0 and redis.call('MEMORY', 'USAGE', stream, 'SAMPLES', 5) or 0
  return math.max(1, size / math.max(1, length))
end

local function earlier(a, b) return precedes(b, a) and b or a end

local function trim(stream, group, limit)
  local summary = redis.call('XPENDING', stream, 'inbox')
  local length, pending = redis.call('XLEN', stream), tonumber(summary[1])
  local waiting = tonumber(group.lag)
  -- An outsider deleted a waiting entry: the server cannot say how many wait until they have been read.
  if not waiting then return end
  local ended = length - pending - waiting
  if ended <= 0 then return end
  local average = average_size(stream, length)
  local excess = ended - math.min(keep, math.floor(bytes / average))
  local last = group['last-delivered-id']
  local border = pending > 0 and summary[2] or last
  if limit then border, last = earlier(border, limit.held[1] or limit.upto), earlier(last, limit.upto) end
  local budget = math.min(excess, most)
  local gone = 0
  if budget > 0 then
    gone = redis.call('XTRIM', stream, 'MINID', '~', border, 'LIMIT', budget)
    if precedes(border, last) and gone < budget and excess - gone > 200 then
      gone = gone + remove_behind(stream, border, last, budget - gone, average, limit and limit.held or {})
    end
    if gone > 0 and excess - gone > 200 then more = 1 end
  end
  local too_old = string.format('%d-0', math.max(0, math.min(oldest_kept, time_of(border))))
  removed = removed + gone + redis.call('XTRIM', stream, 'MINID', '~', too_old, 'LIMIT', most)
end

for i = 2, 7 do
  local group = group_of(KEYS[i])
  if group then
    trim(KEYS[i], group, committed and committed[SOURCES[i - 1]])
    note_oldest(KEYS[i])
  end
end
-- A record is written after the entries it speaks of were added: older than all of them means useless. Those
-- of messages that were moved on (each retry writes one) speak of no entry and go by age and number.
-- The archive reads records in order and has taken those before its position.
local taken = committed and (redis.call('HGET', KEYS[8], 'outcomes') or '0-0')
local function drop_records(before)
  redis.call('XTRIM', KEYS[1], 'MINID', '~', taken and earlier(before, taken) or before, 'LIMIT', most)
end
if removed > 0 and oldest_left then drop_records(string.format('%d-0', oldest_left)) end
drop_records(string.format('%d-0', math.max(0, oldest_kept)))
local records = 10 * (keep + 100)
if not taken then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', records, 'LIMIT', most)
elseif redis.call('XLEN', KEYS[1]) > records then
  redis.call('XTRIM', KEYS[1], 'MINID', '~', taken, 'LIMIT', math.min(most, redis.call('XLEN', KEYS[1]) - records))
end
return {removed, more}
