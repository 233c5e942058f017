#!lua flags=allow-oom
--@include border
-- Notes that the archive has committed everything of one stream up to an entry.
--
-- KEYS   1 archived   2 ledger   3 the stream: outcomes, or the log of a channel
--        of an inbox also 4 returned   5..9 lane:critical .. lane:background
-- ARGV   1 outcomes or log   2 the position this began at   3 the position it came to
--        4 how many ended messages were committed   5 how many of them could not be found any more
-- Returns {'advanced', 1 when nothing is left to archive, else 0}
--         {'moved', position}   somebody else was here first: nothing was written
--
-- Compare and set: two workers that archive the same address for a moment commit the same rows, which the
-- archive keeps once; only one of them may count them here.
--
-- The border of the lanes: records of outcomes are committed in order, and an entry ends in the script that
-- writes its record. So whatever had been handed out and was not held when `outcomes` ended at a mark is
-- committed as soon as the archive has come to that mark. No walk over records, however far behind it is.
local SOURCES = {'returned', 'critical', 'high', 'normal', 'low', 'background'}
-- Held entries that are noted; beyond the last of them nothing is said to be committed.
local MOST_HELD = 200
local field, from, to = ARGV[1], ARGV[2], ARGV[3]
local position = redis.call('HGET', KEYS[1], field) or '0-0'
if position ~= from then return {'moved', position} end

local function last_id(stream)
  local last = redis.pcall('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  return not last.err and last[1] and last[1][1] or '0-0'
end

local function last_delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == 'inbox' then return fields['last-delivered-id'] end
  end
  return nil
end

local function borders_now()
  local borders = {}
  for i = 4, #KEYS do
    local upto = last_delivered(KEYS[i])
    if upto then
      local held = {}
      for _, item in ipairs(redis.call('XPENDING', KEYS[i], 'inbox', '-', '+', MOST_HELD)) do
        held[#held + 1] = item[1]
      end
      if #held == MOST_HELD and precedes(held[#held], upto) then upto = held[#held] end
      borders[SOURCES[i - 3]] = {upto = upto, held = held}
    end
  end
  return cjson.encode(borders)
end

redis.call('HSET', KEYS[1], field, to)
if tonumber(ARGV[4]) > 0 then redis.call('HINCRBY', KEYS[2], 'archived', ARGV[4]) end
if tonumber(ARGV[5]) > 0 then redis.call('HINCRBY', KEYS[2], 'archive_missing', ARGV[5]) end
local finished = not precedes(to, last_id(KEYS[3]))
if #KEYS > 3 then
  local mark = redis.call('HMGET', KEYS[1], 'mark', 'next')
  if mark[1] and mark[2] and not precedes(to, mark[1]) then redis.call('HSET', KEYS[1], 'border', mark[2]) end
  if finished then
    redis.call('HSET', KEYS[1], 'border', borders_now())
    redis.call('HDEL', KEYS[1], 'mark', 'next')
    -- Counted anew whenever everything is committed: hands and repeated settlements make counters drift.
    local ended = -(tonumber(redis.call('HGET', KEYS[2], 'archived')) or 0)
    for _, count in ipairs(redis.call('HMGET', KEYS[2], 'processed', 'expired', 'cancelled', 'discarded',
      'resolved', 'moved')) do
      ended = ended + (tonumber(count) or 0)
    end
    redis.call('HSET', KEYS[2], 'forgiven', string.format('%d', ended))
  elseif not mark[1] or not precedes(to, mark[1]) then
    redis.call('HSET', KEYS[1], 'mark', last_id(KEYS[3]), 'next', borders_now())
  end
end
return {'advanced', finished and 1 or 0}
