-- What the archive has surely taken of streams other than `outcomes`.

-- The archive commits records of outcomes in order, and each record was written together with the entry it
-- speaks of. So the ends that the streams had when `outcomes` ended at a mark are safe borders as soon as the
-- archive has come to that mark: a comparison of ids of two streams by time would believe the clock.
-- streams: names to keys. Returns names to ids: entries up to there are committed.
local function committed_borders(kept_key, archived_key, outcomes, streams)
  local function last_of(stream)
    local info = redis.pcall('XINFO', 'STREAM', stream)
    for f = 1, #info, 2 do
      if info[f] == 'last-generated-id' then return info[f + 1] end
    end
    return '0-0'
  end
  local reached = redis.call('HGET', archived_key, 'outcomes') or '0-0'
  local mark = redis.call('HGET', kept_key, 'mark')
  if not mark or not precedes(reached, mark) then
    local fields = {'mark', last_of(outcomes)}
    for name, stream in pairs(streams) do
      fields[#fields + 1] = 'safe:' .. name
      fields[#fields + 1] = mark and redis.call('HGET', kept_key, 'mark:' .. name) or '0-0'
      fields[#fields + 1] = 'mark:' .. name
      fields[#fields + 1] = last_of(stream)
    end
    redis.call('HSET', kept_key, unpack(fields))
  end
  local borders = {}
  for name in pairs(streams) do borders[name] = redis.call('HGET', kept_key, 'safe:' .. name) or '0-0' end
  return borders
end
