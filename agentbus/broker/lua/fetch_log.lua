#!lua flags=allow-oom
--@include entry
--@include subscriber
-- Hands out the messages of a channel to one agent, in the order of the log.
--
-- KEYS   1 alive   2 subscriber   3 log   4 crashes   5 reads
-- ARGV   1 consumer   2 the agent   3 most messages   4 most bytes   5 1 = one consumer of the agent at a time
--        6 the latest entry that the consumer has seen, '0-0' at first
-- Returns {'fetched', missed, the entry before the gap, entry id, message, state, entry id, …}
--         missed: how many messages retention removed before this agent had handled them, as found in this call;
--         message '' = malformed; state: '' or JSON with `crashes` and `gap`
--         {'standby'}   another consumer of the agent reads, and lives
--         {'fenced'}
--
-- First what an answer that was lost had handed out, then what consumers that are gone had been handed, then what
-- is new: in the order of the log, also when one consumer takes over from another. A question that arrives late,
-- after one that was asked since, hands out only what the next one finds again. A gap is counted when the cursor
-- passes it, in the same step: neither a crash nor a second look counts it twice, or not at all. It is told with
-- the entry behind it. What was read cannot be given back, so nothing after the first read may raise an error.
local LONGEST_READ = 64
local consumer, group, most, bytes_left = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('HEXISTS', KEYS[1], consumer) == 0 then return {'fenced'} end
-- Asked first: without the group nothing may be written.
local summary = redis.call('XPENDING', KEYS[3], group)
local fields = redis.call('HMGET', KEYS[2], 'active', 'gap')
if ARGV[5] == '1' then
  local active = fields[1]
  if active ~= consumer then
    if active and redis.call('HEXISTS', KEYS[1], active) == 1 then return {'standby'} end
    redis.call('HSET', KEYS[2], 'active', consumer)
  end
end

local results, taken, bytes, missed = {'fetched', 0, ''}, 0, 0, 0
local gap_entry, gap_missed, gap_after = gap_of(fields[2])

local function note_missed(count, after)
  missed = missed + count
  gap_entry, gap_missed, gap_after = gap_of(redis.call('HGET', KEYS[2], 'gap'))
  results[3] = after
end

-- What is kept beside an entry, as JSON.
local function state_of(id, crashes)
  if gap_entry == '-' then
    gap_entry = id
    redis.call('HSET', KEYS[2], 'gap', id .. ' ' .. gap_missed .. ' ' .. gap_after)
  end
  local state = {}
  if crashes then state[1] = '"crashes":' .. crashes end
  if gap_entry == id then state[#state + 1] = '"gap":' .. gap_json(gap_missed, gap_after) end
  return #state > 0 and '{' .. table.concat(state, ',') .. '}' or ''
end

local function hand_out(entry, crashes)
  local message = parts(entry[2]) or ''
  results[#results + 1] = entry[1]
  results[#results + 1] = message
  results[#results + 1] = (crashes or gap_entry) and state_of(entry[1], crashes) or ''
  taken, bytes = taken + 1, bytes + #message
end

-- Owners of pending entries that are not alive: they hold nothing by right.
local function strays()
  local gone = {}
  for _, owner in ipairs(summary[4] or {}) do
    if owner[1] ~= consumer and redis.call('HEXISTS', KEYS[1], owner[1]) == 0 then
      gone[#gone + 1] = owner[1]
    end
  end
  return gone
end

local function take_over(id)
  local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
  if entry then
    redis.call('XCLAIM', KEYS[3], group, consumer, 0, id, 'JUSTID')
    hand_out(entry, redis.call('HGET', KEYS[4], id))
  else
    -- Its body died with its owner.
    redis.call('HDEL', KEYS[4], id)
    note_missed(let_go(KEYS[3], group, KEYS[2], id), '')
  end
end

local function earlier(left, right)
  local time, number = string.match(left, '^(%d+)-(%d+)$')
  local other, place = string.match(right, '^(%d+)-(%d+)$')
  time, other = tonumber(time), tonumber(other)
  return time < other or (time == other and tonumber(number) < tonumber(place))
end

-- Returns whether there may be more. Behind what it has seen everything that is pending for it was never seen.
local function take_unseen()
  local longest = math.max(500, most)
  local pending = redis.call('XPENDING', KEYS[3], group, '(' .. ARGV[6], '+', longest, consumer)
  for _, item in ipairs(pending) do
    if taken >= most or bytes >= bytes_left then return true end
    take_over(item[1])
  end
  return #pending == longest
end

-- Returns whether there may be more. Asked for each of them: what the living hold must not hide it.
local function take_from(gone)
  local ids, more, longest = {}, false, math.max(500, most)
  for _, owner in ipairs(gone) do
    local pending = pending_of(KEYS[3], group, owner, longest)
    more = more or #pending == longest
    for _, item in ipairs(pending) do ids[#ids + 1] = item[1] end
  end
  if #gone > 1 then table.sort(ids, earlier) end
  for _, id in ipairs(ids) do
    if taken >= most or bytes >= bytes_left then return true end
    take_over(id)
  end
  return more
end

local function note_gap(removed)
  local position = tonumber(redis.call('HGET', KEYS[2], 'position') or '')
  if position and removed > position then
    local after = redis.call('HGET', KEYS[2], 'last') or ''
    miss(KEYS[2], removed - position, after)
    note_missed(removed - position, after)
    redis.call('HSET', KEYS[2], 'position', removed)
  end
  return position ~= nil
end

local function read_new()
  local added, removed, last = log_facts(KEYS[3])
  local known, first, count = note_gap(removed), nil, 0
  local newest
  while taken < most and bytes < bytes_left do
    local room = math.min(most - taken, LONGEST_READ)
    -- A small first read tells how big the messages are.
    local chunk = taken == 0 and math.min(room, 4)
      or math.max(1, math.min(room, math.floor((bytes_left - bytes) * taken / math.max(1, bytes))))
    local reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', chunk, 'STREAMS', KEYS[3], '>')
    if not reply or failed(reply) then break end
    local entries = reply[1][2]
    for _, entry in ipairs(entries) do
      first, newest, count = first or entry[1], entry[1], count + 1
      hand_out(entry)
    end
    if #entries < chunk then break end
  end
  if count == 0 then return end
  redis.call('HSET', KEYS[2], 'last', newest)
  if known then
    redis.call('HINCRBY', KEYS[2], 'position', count)
  elseif newest == last then
    redis.call('HSET', KEYS[2], 'position', added)
  end
  redis.call('HINCRBY', KEYS[2], 'handed_out', count)
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', 'delivered', first .. '..' .. newest, 'count', count)
end

local gone = strays()
local more = take_unseen()
if not more and #gone > 0 then more = take_from(gone) end
if not more then
  for _, owner in ipairs(gone) do remove_if_idle(KEYS[3], group, owner) end
  read_new()
end
results[2] = missed
return results
