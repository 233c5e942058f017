#!lua flags=allow-oom
--@include clock
--@include history
-- Removes ended entries beyond what is kept as history.
--
-- KEYS   1 outcomes   2 returned   3..7 lane:critical .. lane:background
-- ARGV   1 most ended entries kept per stream   2 longest age (ms)   3 most bytes per stream
--        4 most entries removed per stream in this call
-- Returns {entries removed, 1 if there is more to do}
--
-- Never past an unsettled entry: the range ends before the oldest pending one and at the group's last
-- delivered. Behind an entry held for long, ended ones are removed one by one. `~` works in whole nodes:
-- up to a hundred entries more are kept, and the cost stays in proportion to what goes.
local keep, age, bytes, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local oldest_kept = now_ms() - age
local removed, more, oldest_left = 0, 0, nil

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

-- Removes up to `room` entries after `from` and not beyond `to`: nobody holds any of them.
local function remove_gap(stream, from, to, room)
  local ended = {}
  for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. from, to, 'COUNT', room)) do
    ended[#ended + 1] = entry[1]
  end
  if #ended > 0 then redis.call('XDEL', stream, unpack(ended)) end
  return #ended
end

-- Ended entries lie between held ones. However many are held in a row, at most two thousand of them are
-- looked at in one call.
local function remove_behind(stream, first_held, last, budget, average)
  local room = readable(average, math.min(budget, 500))
  local gone, looked, from = 0, 0, first_held
  while from and gone < room and looked < 2000 do
    local held = redis.call('XPENDING', stream, 'inbox', from, '+', 500)
    from = nil
    for i, item in ipairs(held) do
      local id, after = item[1], held[i + 1]
      if gone >= room or id == LARGEST then break end
      if after and not later(after[1], last) then
        gone = gone + remove_gap(stream, id, '(' .. after[1], room - gone)
      elseif not after and #held == 500 then
        from = id
      else
        gone = gone + remove_gap(stream, id, last, room - gone)
        break
      end
    end
    looked = looked + #held
  end
  return gone
end

local function note_oldest(stream)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first and (not oldest_left or time_of(first[1]) < oldest_left) then oldest_left = time_of(first[1]) end
end

local function trim(stream, group)
  local summary = redis.call('XPENDING', stream, 'inbox')
  local length, pending = redis.call('XLEN', stream), tonumber(summary[1])
  local last = group['last-delivered-id']
  -- Somebody's hand may have set the group back: then held entries come after waiting ones.
  local border = pending > 0 and not later(summary[2], last) and summary[2] or last
  local ended = length - pending - most_waiting(stream, group, length)
  local gone = 0
  if ended > 0 then
    local average = average_size(stream, length)
    local excess = ended - math.min(keep, math.floor(bytes / average))
    local budget = math.min(excess, most)
    if budget > 0 then
      gone = redis.call('XTRIM', stream, 'MINID', '~', border, 'LIMIT', budget)
      if border ~= last and gone < budget and excess - gone > 200 then
        gone = gone + remove_behind(stream, border, last, budget - gone, average)
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
    trim(KEYS[i], group)
    note_oldest(KEYS[i])
  end
end
-- A record is written after the entries it speaks of were added: older than all of them means useless. Those
-- of messages that were moved on (each retry writes one) speak of no entry and go by age and number.
if removed > 0 and oldest_left then
  redis.call('XTRIM', KEYS[1], 'MINID', '~', id_at(oldest_left), 'LIMIT', most)
end
redis.call('XTRIM', KEYS[1], 'MINID', '~', id_at(oldest_kept), 'LIMIT', most)
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', 10 * (keep + 100), 'LIMIT', most)
return {removed, more}
