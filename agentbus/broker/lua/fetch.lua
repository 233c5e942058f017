#!lua flags=allow-oom
--@include clock
--@include entry
-- Hands out messages in the order in which they are to be served.
--
-- KEYS   1 alive   2 ledger   3 lanes   4 outcomes   5 returned   6..10 lane:critical .. lane:background
-- ARGV   1 consumer   2 most messages   3 most bytes
-- Returns {'fetched', server time in ms, source, entry id, message, state, source, …}
--         source: 0 returned, 1 critical .. 5 background; message '' = malformed, state '' = none
--         {'expired', server time in ms} when only expired ones were met and there may be more: ask again
--         {'fenced'}
--
-- `returned` comes first, then the lanes by min(time of the oldest waiting, now) + allowance. With one lane
-- listed nothing needs comparing; with more, the scores are taken from the streams themselves, because
-- parked reads empty lanes without touching the index. Expired messages end here, unseen.
local ALLOWANCE = {-600000, 0, 2000, 30000, 300000}
-- Entries that expired unseen and may end in one call: a backlog of them must not hold up the server.
local MOST_ENDED = 500
local INDEX = {critical = 1, high = 2, normal = 3, low = 4, background = 5}
local consumer, wanted, bytes_left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('HEXISTS', KEYS[1], consumer) == 0 then return {'fenced'} end

local now = now_ms()
local results = {'fetched', now}
local taken, bytes_taken, ended = 0, 0, {}

local function may_go_on()
  return taken < wanted and bytes_taken < bytes_left and #ended < 2 * MOST_ENDED
end

local function end_expired(source, id)
  redis.call('XACK', KEYS[5 + source], 'inbox', id)
  ended[#ended + 1] = SOURCES[source + 1]
  ended[#ended + 1] = id
end

local function hand_out(source, entry)
  local message, state = parts(entry[2] or {})
  if state and ends_unseen(message, decode_state(state), now) then
    end_expired(source, entry[1])
    return
  end
  local place = #results
  results[place + 1] = source
  results[place + 2] = entry[1]
  results[place + 3] = message or ''
  results[place + 4] = state or ''
  taken = taken + 1
  bytes_taken = bytes_taken + #(message or '')
end

-- Reads up to `most` from one stream; returns how many there were. The first read is small and tells how
-- big the messages are, so that a reply stays near the byte limit even if each is a megabyte.
local function read(source, most)
  local got = 0
  while got < most and may_go_on() do
    local room = math.min(most - got, wanted - taken)
    local chunk = math.min(room, #ended > 0 and MOST_ENDED - #ended / 2 or 4)
    if taken > 0 then
      local average = math.max(1, bytes_taken / taken)
      chunk = math.max(1, math.min(room, math.floor((bytes_left - bytes_taken) / average)))
    end
    local reply = redis.call('XREADGROUP', 'GROUP', 'inbox', consumer, 'COUNT', chunk,
      'STREAMS', KEYS[5 + source], '>')
    if not reply then return got, true end
    local entries = reply[1][2]
    for _, entry in ipairs(entries) do hand_out(source, entry) end
    got = got + #entries
    if #entries < chunk then return got, true end
  end
  return got, false
end

local function last_delivered(stream)
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local name, last
    for i = 1, #group, 2 do
      if group[i] == 'name' then name = group[i + 1] end
      if group[i] == 'last-delivered-id' then last = group[i + 1] end
    end
    if name == 'inbox' then return last end
  end
  return '0-0'
end

-- Nothing waits behind the largest id, and the server refuses to look there with an error.
local LARGEST = '18446744073709551615-18446744073709551615'

local function oldest_waiting(lane)
  local last = last_delivered(KEYS[5 + lane])
  if last == LARGEST then return nil end
  local head = redis.call('XRANGE', KEYS[5 + lane], '(' .. last, '+', 'COUNT', 1)[1]
  if not head then return nil end
  return math.min(tonumber(string.match(head[1], '^%d+')), now) + ALLOWANCE[lane], last
end

-- How many entries of a lane come before another lane's head: those up to the time `cut`.
local function count_before(lane, last, cut, most)
  if cut >= now then return most end
  local entries = redis.call('XRANGE', KEYS[5 + lane], '(' .. last, string.format('%d', cut), 'COUNT', most)
  return math.max(1, #entries)
end

-- One step of the merge: serve the lane whose head has the lowest score, up to the second lane's head.
local function serve_best(listed)
  local best, second
  for _, name in ipairs(listed) do
    local lane = INDEX[name]
    local score, last
    if lane then score, last = oldest_waiting(lane) end
    if not score then
      redis.call('ZREM', KEYS[3], name)
    elseif not best or score < best.score then
      best, second = {lane = lane, score = score, last = last}, best
    elseif not second or score < second.score then
      second = {score = score}
    end
  end
  if not best then return false end
  local most = wanted - taken
  if second then most = count_before(best.lane, best.last, second.score - ALLOWANCE[best.lane], most) end
  local got, empty = read(best.lane, most)
  if empty then redis.call('ZREM', KEYS[3], SOURCES[best.lane + 1]) end
  return got > 0 or empty
end

read(0, wanted)
while may_go_on() do
  local listed = redis.call('ZRANGE', KEYS[3], 0, -1)
  if #listed == 0 then break end
  if #listed == 1 and INDEX[listed[1]] then
    local _, empty = read(INDEX[listed[1]], wanted - taken)
    if empty then redis.call('ZREM', KEYS[3], listed[1]) end
    if empty then break end
  elseif not serve_best(listed) then
    break
  end
end

if #ended > 0 then
  redis.call('HINCRBY', KEYS[2], 'expired', #ended / 2)
  redis.call('XADD', KEYS[4], '*', 'consumer', consumer, 'outcome', 'expired', unpack(ended))
  if taken == 0 and not may_go_on() then results[1] = 'expired' end
end
return results
