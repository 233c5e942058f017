#!lua flags=allow-oom
--@include clock
--@include entry
--@include due
--@include letters
--@include window
-- Moves messages that came due to where they are read.
--
-- KEYS   1 ledger   2 due   3 delayed   4 lanes   5 outcomes   6 keys:0   7 keys:1   8 keys:due
--        9 ended   10 returned   11..15 lane:critical .. lane:background   16 dead   17 resolved
--        18 policy
-- ARGV   1 most messages   2 window of keys (ms)
-- Returns {how many moved, next due time in ms or '', server time in ms, how many more are due now (0 or 1),
--         how late the latest of those that moved was (ms)}
--
-- A delayed message goes to its lane; one that a consumer held (a retry, a deferral) goes to `returned`, so
-- that a long backlog does not swallow it; one that has expired goes to `ended`, where its end can be read.
-- The XADD wakes parked readers by itself. Each item is added, then removed, before the next is touched. A
-- dead letter that was parked for want of room becomes one now, or is parked again; it is not handed out,
-- because it has failed for good.
local ALLOWANCE = {critical = -600000, high = 0, normal = 2000, low = 30000, background = 300000}
local PLACE = {critical = 11, high = 12, normal = 13, low = 14, background = 15}
-- Bodies moved in one call: a step must not hold up the server.
local MOST_BYTES = 4194304
local now, most, window = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2])

local function forget(id, state)
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[3], id, id .. ':state')
  if state and state.key then redis.pcall('HDEL', KEYS[8], state.key) end
end

local function move(id, message, state)
  local lane, held = state.lane, state.held
  if not PLACE[lane] then lane = 'normal' end
  local name = held and 'returned' or lane
  local carried = {}
  for field, value in pairs(state) do carried[field] = value end
  carried.held, carried.key, carried.digest = nil, nil, nil
  if not held then carried.lane = nil end
  local added = add_entry(held and KEYS[10] or KEYS[PLACE[lane]], message, carried)
  if failed(added) then return false end
  redis.call('HINCRBY', KEYS[1], 'added:' .. name, 1)
  if not held then redis.pcall('ZADD', KEYS[4], 'NX', now + ALLOWANCE[lane], lane) end
  -- The window of an idempotency key begins when its message comes due.
  if state.key and state.digest then
    remember_in_window(KEYS[6], KEYS[7], window, now, state.key, state.digest, name .. ' ' .. added)
  end
  return true
end

-- True when it is a dead letter now; false when there is still no room.
local function bury_parked(id, message, state)
  if not dead_room(KEYS[16], KEYS[17], KEYS[18], KEYS[1]) then return false end
  if message == '' then message = nil end
  if failed(add_letter(KEYS[16], state.parked, message, state)) then return false end
  redis.call('XADD', KEYS[5], '*', 'consumer', '', 'outcome', 'dead', 'due', id)
  return true
end

-- Its state stays as it is: history shows it with the message.
local function expire(message, text)
  local added = redis.pcall('XADD', KEYS[9], '*', 'message', message, 'state', text, 'outcome', 'expired')
  if failed(added) then return false end
  redis.call('HINCRBY', KEYS[1], 'expired', 1)
  -- pcall: the entry is there already, and without the record it would be added again at each look.
  redis.pcall('XADD', KEYS[5], '*', 'consumer', '', 'outcome', 'expired', 'ended', added)
  return true
end

local moved, bytes, more, latest = 0, 0, 0, 0
local due = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
if #due == 2 * most then more = 1 end
for i = 1, #due, 2 do
  local id, late = due[i], now - tonumber(due[i + 1])
  if bytes >= MOST_BYTES then more = 1 break end
  local found = redis.call('HMGET', KEYS[3], id, id .. ':state')
  local state = decode_state(found[2])
  if not found[1] then
    -- Somebody deleted the body by hand: say so and go on, or this item would be tried for ever.
    redis.call('HINCRBY', KEYS[1], 'vanished', 1)
    forget(id, state)
  elseif type(state.parked) == 'table' then
    bytes = bytes + #found[1]
    if bury_parked(id, found[1], state) then
      forget(id)
    else
      redis.call('ZADD', KEYS[2], now + PARKED_MS, id)
    end
  elseif ends_unseen(found[1], state, now) and expire(found[1], found[2]) then
    forget(id, state)
    bytes = bytes + #found[1]
  elseif not ends_unseen(found[1], state, now) and move(id, found[1], state) then
    forget(id, state)
    moved = moved + 1
    bytes = bytes + #found[1]
    latest = math.max(latest, math.min(late, 9007199254740991))
  else
    -- The target refuses entries (a bricked or foreign key): come back in a minute, do not spin.
    redis.call('ZADD', KEYS[2], now + 60000, id)
  end
end
local upcoming = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return {moved, upcoming[2] or '', now, more, latest}
