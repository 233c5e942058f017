#!lua flags=allow-oom
--@include clock
--@include entry
--@include record
--@include marks
-- Hands out messages in the order in which they are to be served.
--
-- KEYS   1 alive   2 ledger   3 lanes   4 outcomes   5 returned   6..10 lane:critical .. lane:background
--        11 cancelled
-- ARGV   1 consumer   2 most messages   3 most bytes
-- Returns {'fetched', server time in ms, source, entry id, message, state, source, …}
--         source: 0 returned, 1 critical .. 5 background; message '' = malformed, state '' = none
--         {'expired', server time in ms} when only such were met that ended here and there may be more: ask again
--         {'fenced'}
--
-- `returned` comes first, then the lanes by min(time of the oldest waiting, now) + allowance, in a tie the
-- higher priority. With one lane listed nothing needs comparing; with more, the scores are taken from the
-- streams themselves, because parked reads empty lanes without touching the index. Expired and cancelled messages
-- end here, unseen. What was read cannot be given back: once something is taken no error may end the call.
local ALLOWANCE = {-600000, 0, 2000, 30000, 300000}
local NAMES = {'critical', 'high', 'normal', 'low', 'background'}
local INDEX = {critical = 1, high = 2, normal = 3, low = 4, background = 5}
-- Entries that may end unseen in one call: a backlog of them must not hold up the server.
local MOST_ENDED = 500
-- Entries of one read. Sizes vary, and the first few say little of the next thousand.
local LONGEST_READ = 64
local consumer, wanted, bytes_left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('HEXISTS', KEYS[1], consumer) == 0 then return {'fenced'} end

local now = now_ms()
local results = {'fetched', now}
local taken, bytes_taken, ended = 0, 0, {count = 0}
-- Cancelled ones by who cancelled them. Asked once: hardly ever is anything marked.
local marked, cancelled, unseen = redis.call('EXISTS', KEYS[11]) == 1, {}, 0
-- Lanes that this call found empty or broken; what the server said of a broken stream; whether to stop.
local done, problem, stopped = {}, nil, false

local function may_go_on()
  return taken < wanted and bytes_taken < bytes_left and unseen < MOST_ENDED and not stopped
end

-- A group that is gone stops everything, so that the caller learns of it and makes it anew before other
-- lanes are served; a key of another type must not keep the others from being served.
local function note_problem(reply)
  if string.find(reply.err, 'no such key', 1, true) then reply = {err = 'NOGROUP a lane was deleted'} end
  problem = problem or reply
  stopped = stopped or string.find(reply.err, '^NOGROUP') ~= nil
end

local function hand_out(source, entry)
  local by = marked and take_mark(KEYS[11], source, entry[1])
  if by then
    end_cancelled(cancelled, KEYS[5 + source], source, entry[1], by)
    unseen = unseen + 1
    return
  end
  local message, state = parts(entry[2] or {})
  if state and ends_unseen(message, decode_state(state), now) then
    redis.call('XACK', KEYS[5 + source], 'inbox', entry[1])
    note(ended, source, entry[1])
    unseen = unseen + 1
    return
  end
  local place = #results
  results[place + 1] = source
  results[place + 2] = entry[1]
  results[place + 3] = message or ''
  results[place + 4] = state or ''
  taken = taken + 1
  bytes_taken = bytes_taken + #(message or '') + #(state or '')
end

-- How many to read at once. The first read is small and tells how big the messages are, so that a reply
-- stays near the byte limit even if each is a megabyte.
local function chunk_of(most)
  local chunk = math.min(most, wanted - taken, LONGEST_READ)
  if taken == 0 then return math.min(chunk, unseen > 0 and MOST_ENDED - unseen or 4) end
  local average = math.max(1, bytes_taken / taken)
  return math.max(1, math.min(chunk, math.floor((bytes_left - bytes_taken) / average)))
end

-- Reads up to `most` from one stream; returns how many there were, and whether there are no more.
local function read(source, most)
  local got = 0
  while got < most and may_go_on() do
    local chunk = chunk_of(most - got)
    local reply = redis.pcall('XREADGROUP', 'GROUP', 'inbox', consumer, 'COUNT', chunk,
      'STREAMS', KEYS[5 + source], '>')
    if failed(reply) then note_problem(reply) return got, true end
    if not reply then return got, true end
    local entries = reply[1][2]
    for _, entry in ipairs(entries) do hand_out(source, entry) end
    got = got + #entries
    if #entries < chunk then return got, true end
  end
  return got, false
end

local function unlist(lane)
  done[lane] = true
  redis.pcall('ZREM', KEYS[3], NAMES[lane])
end

-- Lanes to look at, by priority. Without a readable index all of them: it is only an index.
local function listed_lanes()
  local names = redis.pcall('ZRANGE', KEYS[3], 0, 31)
  if failed(names) then names = NAMES end
  local listed = {}
  for _, name in ipairs(names) do
    local lane = INDEX[name]
    if not lane then
      redis.pcall('ZREM', KEYS[3], name)
    elseif not done[lane] then
      listed[#listed + 1] = lane
    end
  end
  table.sort(listed)
  return listed
end

local function last_delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if failed(groups) then return nil, groups end
  for _, group in ipairs(groups) do
    local name, last
    for i = 1, #group, 2 do
      if group[i] == 'name' then name = group[i + 1] end
      if group[i] == 'last-delivered-id' then last = group[i + 1] end
    end
    if name == 'inbox' then return last end
  end
  return nil, {err = 'NOGROUP a lane has no group'}
end

-- Nothing waits behind the largest id, and the server refuses to look there with an error.
local LARGEST = '18446744073709551615-18446744073709551615'

local function oldest_waiting(lane)
  local last, trouble = last_delivered(KEYS[5 + lane])
  if trouble then note_problem(trouble) return nil end
  if last == LARGEST then return nil end
  local head = redis.call('XRANGE', KEYS[5 + lane], '(' .. last, '+', 'COUNT', 1)[1]
  if not head then return nil end
  return math.min(tonumber(string.match(head[1], '^%d+')), now) + ALLOWANCE[lane], last
end

-- How many entries of a lane come before another lane's head: those up to the time `cut`.
local function count_before(lane, last, cut)
  if cut >= now then return wanted - taken end
  local most = chunk_of(wanted - taken)
  local entries = redis.call('XRANGE', KEYS[5 + lane], '(' .. last, string.format('%d', cut), 'COUNT', most)
  return math.max(1, #entries)
end

-- One step of the merge: serve the lane whose head has the lowest score, up to the second lane's head.
local function serve_best(listed)
  local best, second
  for _, lane in ipairs(listed) do
    local score, last = oldest_waiting(lane)
    if stopped then return false end
    if not score then
      unlist(lane)
    elseif not best or score < best.score then
      best, second = {lane = lane, score = score, last = last}, best
    elseif not second or score < second.score then
      second = {lane = lane, score = score}
    end
  end
  if not best then return false end
  local most = wanted - taken
  if second then
    local tie = second.lane < best.lane and 1 or 0
    most = count_before(best.lane, best.last, second.score - ALLOWANCE[best.lane] - tie)
  end
  local _, empty = read(best.lane, most)
  if empty then unlist(best.lane) end
  return true
end

read(0, wanted)
while may_go_on() do
  local listed = listed_lanes()
  if #listed == 0 then break end
  if #listed == 1 then
    local _, empty = read(listed[1], wanted - taken)
    if empty and not stopped then unlist(listed[1]) end
    -- Not empty and room left: expired ones took the places of those asked for.
    if empty then break end
  elseif not serve_best(listed) then
    break
  end
end

if ended.count > 0 then
  redis.call('HINCRBY', KEYS[2], 'expired', ended.count)
  write_record(KEYS[4], consumer, 'expired', ended)
end
if unseen > 0 then
  write_cancelled(KEYS[2], KEYS[4], cancelled)
  if taken == 0 and not may_go_on() and not stopped then results[1] = 'expired' end
end
if taken == 0 and problem then return redis.error_reply(problem.err) end
return results
