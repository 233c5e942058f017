-- What one consumer holds.

-- fields of an entry that `consumer` holds in `stream`; nil and why when it holds no such entry.
-- An entry that is pending but gone from the stream was deleted by an outsider: 'vanished'.
local function held_fields(stream, id, consumer)
  local pending = redis.pcall('XPENDING', stream, 'inbox', id, id, 1, consumer)
  -- No stream or no group: nobody holds anything there.
  if pending.err or #pending == 0 then return nil, 'gone' end
  local entries = redis.call('XRANGE', stream, id, id)
  if #entries == 0 then return nil, 'vanished' end
  return entries[1][2]
end

local function take_away(stream, id)
  redis.call('XACK', stream, 'inbox', id)
  redis.call('XDEL', stream, id)
end
