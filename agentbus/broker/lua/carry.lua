#!lua flags=allow-oom
--@include clock
--@include entry
--@include due
--@include letters
--@include window
-- Adds one message that comes from another address, once for each origin.
--
-- KEYS   1 ledger   2 lanes   3 due   4 delayed   5 dead   6 keys:0   7 keys:1   8 resolved   9 policy
--        10 outcomes   11..15 lane:critical .. lane:background
-- ARGV   1 origin, unique for what is carried here from there   2 window of keys (ms)   3 lane (0 .. 4)
--        4 'lane', 'due' or 'dead'   5 delay (ms), for 'due'   6 message id   7 nudge channel   8 message
--        9 state as JSON or ''   10 .. for 'dead': reason, detail, entry, owner, attempts, max retries or ''
-- Returns {'carried', place, due time in ms or ''}; {'known', place, ''} when it is here already
--
-- Half of every move between addresses: the other half settles at the origin once this has been answered. A
-- crash in between repeats this one, and the origin's key keeps it single for as long as the window. Exempt from
-- `full` and allow-oom: what a full address or server refused would stay with its origin for ever.
local PRIORITY_ALLOWANCE = {-600000, 0, 2000, 30000, 300000}
local NAMES = {'critical', 'high', 'normal', 'low', 'background'}
local origin, window, lane = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]) + 1
local message, state, now = ARGV[8], decode_state(ARGV[9]), now_ms()

-- Asked before anything is written: an error after a write would carry it once more the next time.
redis.call('HGET', KEYS[1], 'accepted')
for bucket = 6, 7 do
  local found = redis.call('HGET', KEYS[bucket], origin)
  if found then return {'known', string.match(found, '^%S+ (.*)$') or '', ''} end
end

local function place_in_lane()
  local added = add_entry(KEYS[10 + lane], message, state)
  if failed(added) then return added end
  redis.call('HINCRBY', KEYS[1], 'added:' .. NAMES[lane], 1)
  redis.pcall('ZADD', KEYS[2], 'NX', now + PRIORITY_ALLOWANCE[lane], NAMES[lane])
  return NAMES[lane] .. ' ' .. added
end

local function place_in_due()
  local due = now + tonumber(ARGV[5])
  if not state.lane then state.lane = NAMES[lane] end
  local added = add_due(KEYS[3], KEYS[4], ARGV[7], ARGV[6], message, state, due)
  return failed(added) and added or 'due ' .. added, due
end

-- Without room it is parked in `due`, as every letter is.
local function place_in_dead()
  local letter = letter_of(ARGV[10], ARGV[11], NAMES[lane], ARGV[12], ARGV[13], ARGV[14], ARGV[15])
  if dead_room(KEYS[5], KEYS[8], KEYS[9], KEYS[1]) then
    local added = add_letter(KEYS[5], letter, message, state)
    if failed(added) then return added end
    redis.call('XADD', KEYS[10], '*', 'consumer', ARGV[13], 'outcome', 'dead', 'message_id', ARGV[6])
    return 'dead ' .. added
  end
  local parked = park(KEYS[3], KEYS[4], ARGV[7], ARGV[12], letter, message, state, now)
  if failed(parked) then return parked end
  redis.call('HINCRBY', KEYS[1], 'parked', 1)
  return 'due ' .. parked[2], parked[1]
end

local place, due
if ARGV[4] == 'lane' then place = place_in_lane()
elseif ARGV[4] == 'due' then place, due = place_in_due()
else place, due = place_in_dead() end
if failed(place) then return redis.error_reply(place.err) end
redis.call('HINCRBY', KEYS[1], 'accepted', 1)
remember_in_window(KEYS[6], KEYS[7], window, now, origin, 'origin', place)
return {'carried', place, due or ''}
