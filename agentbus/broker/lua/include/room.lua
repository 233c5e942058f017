-- room_left(): how many more unsettled messages an inbox takes, and 1 when anybody has ever served it, else 0.
-- Dead letters count as settled here, but are counted only when `wanted` messages would not fit otherwise.
local function room_left(ledger_key, dead_key, limit, wanted)
  local ledger = redis.call('HMGET', ledger_key, 'served', 'accepted', 'processed', 'expired', 'cancelled',
    'discarded', 'resolved', 'moved', 'vanished', 'handmade')
  local room = limit - (tonumber(ledger[2]) or 0)
  for i = 3, 9 do room = room + (tonumber(ledger[i]) or 0) end
  room = room - (tonumber(ledger[10]) or 0)
  if room < wanted then room = room + redis.call('XLEN', dead_key) end
  return room, ledger[1] and 1 or 0
end
