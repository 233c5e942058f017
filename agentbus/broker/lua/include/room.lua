-- room_left(): how many more unsettled messages an inbox takes, 1 when anybody has ever served it, else 0, and
-- how many of those that take room have ended and wait for the archive.
-- Dead letters count as settled here, but are counted only when `wanted` messages would not fit otherwise.
-- Where an archive is required, what has ended but is not archived takes room too: nothing trims it.
local function room_left(ledger_key, dead_key, limit, wanted)
  local ledger = redis.call('HMGET', ledger_key, 'served', 'accepted', 'processed', 'expired', 'cancelled',
    'discarded', 'resolved', 'moved', 'vanished', 'handmade', 'archiving', 'archived', 'forgiven')
  local room = limit - (tonumber(ledger[2]) or 0)
  local ended = 0
  for i = 3, 8 do ended = ended + (tonumber(ledger[i]) or 0) end
  local taken = ended
  if ledger[11] == '1' then taken = math.min(ended, (tonumber(ledger[12]) or 0) + (tonumber(ledger[13]) or 0)) end
  room = room + taken + (tonumber(ledger[9]) or 0)
  room = room - (tonumber(ledger[10]) or 0)
  if room < wanted then room = room + redis.call('XLEN', dead_key) end
  return room, ledger[1] and 1 or 0, ended - taken
end
