#!lua flags=allow-oom
--@include clock
--@include border
--@include history
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

-- How many entries wait, at most. After an outsider deleted a waiting one the server cannot say, until the
-- group has read past it, which may be never; what was added and not yet read is no less than what waits.
local function most_waiting(stream, group, length)
  if group.lag then return tonumber(group.lag) end
  if not group['entries-read'] then return length end
  local info = redis.call('XINFO', 'STREAM', stream)
  for f = 1, #info, 2 do
    if info[f] == 'entries-added' then return info[f + 1] - group['entries-read'] end
  end
  return length
end

-- Removes up to `room` entries after `from` and not beyond `to`. Nobody holds any of them; those in
-- `uncommitted` were held when the archive last looked.
local function remove_gap(stream, from, to, room, uncommitted)
  local ended = {}
  for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. from, to, 'COUNT', room)) do
    if not uncommitted[entry[1]] then ended[#ended + 1] = entry[1] end
  end
  if #ended > 0 then redis.call('XDEL', stream, unpack(ended)) end
  return #ended
end

-- Ended entries lie between held ones. However many are held in a row, some two thousand of them at most are
-- looked at in one call.
local function remove_behind(stream, border, last, budget, average, uncommitted)
  local room = readable(average, math.min(budget, 500))
  local gone, looked, position, held = 0, 0, border, nil
  repeat
    held = redis.call('XPENDING', stream, 'inbox', position, '+', 500)
    for _, item in ipairs(held) do
      local id = item[1]
      if gone >= room or not precedes(position, last) then return gone end
      if precedes(position, id) then
        local to = precedes(last, id) and last or '(' .. id
        gone = gone + remove_gap(stream, position, to, room - gone, uncommitted)
        position = id
      end
    end
    looked = looked + #held
  until #held < 500 or looked >= 2000
  if #held == 500 or gone >= room or not precedes(position, last) then return gone end
  return gone + remove_gap(stream, position, last, room - gone, uncommitted)
end

local function note_oldest(stream)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first and (not oldest_left or time_of(first[1]) < oldest_left) then oldest_left = time_of(first[1]) end
end

local function earlier(a, b) return precedes(b, a) and b or a end

local function set_of(ids)
  local set = {}
  for _, id in ipairs(ids) do set[id] = true end
  return set
end

local function trim(stream, group, limit)
  local summary = redis.call('XPENDING', stream, 'inbox')
  local length, pending = redis.call('XLEN', stream), tonumber(summary[1])
  local last = group['last-delivered-id']
  -- Somebody's hand may have set the group back: then held entries come after waiting ones.
  local border = pending > 0 and earlier(summary[2], last) or last
  if limit then border, last = earlier(border, limit.held[1] or limit.upto), earlier(last, limit.upto) end
  local ended = length - pending - most_waiting(stream, group, length)
  local gone = 0
  if ended > 0 then
    local average = average_size(stream, length)
    local excess = ended - math.min(keep, math.floor(bytes / average))
    local budget = math.min(excess, most)
    if budget > 0 then
      gone = redis.call('XTRIM', stream, 'MINID', '~', border, 'LIMIT', budget)
      if precedes(border, last) and gone < budget and excess - gone > 200 then
        gone = gone + remove_behind(stream, border, last, budget - gone, average, set_of(limit and limit.held or {}))
      end
      if gone > 0 and excess - gone > 200 then more = 1 end
    end
  end
  local too_old = id_at(math.min(oldest_kept, time_of(border)))
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
if removed > 0 and oldest_left then drop_records(id_at(oldest_left)) end
drop_records(id_at(oldest_kept))
local records = 10 * (keep + 100)
if not taken then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', records, 'LIMIT', most)
elseif redis.call('XLEN', KEYS[1]) > records then
  redis.call('XTRIM', KEYS[1], 'MINID', '~', taken, 'LIMIT', math.min(most, redis.call('XLEN', KEYS[1]) - records))
end
return {removed, more}
