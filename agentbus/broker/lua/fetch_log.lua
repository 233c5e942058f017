#!lua flags=allow-oom
--@include entry
--@include subscriber
-- Hands out the messages of a channel to one agent, in the order of the log.
--
-- KEYS   1 alive   2 subscriber   3 log   4 crashes   5 reads
-- ARGV   1 consumer   2 the agent   3 most messages   4 most bytes   5 1 = one consumer of the agent at a time
-- Returns {'fetched', missed, the entry before the gap, entry id, message, crashes, entry id, …}
--         missed: how many messages retention removed before this agent had read them; message '' = malformed
--         {'standby'}   another consumer of the agent reads, and lives
--         {'fenced'}
--
-- First what consumers that are gone had been handed, then what is new: in the order of the log, also when one
-- consumer takes over from another. A gap is counted when the cursor passes it, in the same step: neither a
-- crash nor a second look tells of it twice, or not at all. What was read cannot be given back, so nothing
-- after the first read may raise an error.
local LONGEST_READ = 64
local consumer, group, most, bytes_left = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('HEXISTS', KEYS[1], consumer) == 0 then return {'fenced'} end
-- Asked first: without the group nothing may be written.
local summary = redis.call('XPENDING', KEYS[3], group)
if ARGV[5] == '1' then
  local active = redis.call('HGET', KEYS[2], 'active')
  if active ~= consumer then
    if active and redis.call('HEXISTS', KEYS[1], active) == 1 then return {'standby'} end
    redis.call('HSET', KEYS[2], 'active', consumer)
  end
end

local results, taken, bytes, missed = {'fetched', 0, ''}, 0, 0, 0

local function hand_out(entry, crashes)
  local message = parts(entry[2]) or ''
  results[#results + 1] = entry[1]
  results[#results + 1] = message
  results[#results + 1] = crashes or 0
  taken, bytes = taken + 1, bytes + #message
end

-- Owners of pending entries that are not alive: they hold nothing by right.
local function strays()
  local gone = {}
  for _, owner in ipairs(summary[4] or {}) do
    if owner[1] ~= consumer and redis.call('HEXISTS', KEYS[1], owner[1]) == 0 then gone[owner[1]] = true end
  end
  return next(gone) and gone or nil
end

local function take_over(id)
  local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
  if entry then
    redis.call('XCLAIM', KEYS[3], group, consumer, 0, id, 'JUSTID')
    hand_out(entry, redis.call('HGET', KEYS[4], id))
  else
    -- Retention removed it while it was pending; its body died with its owner.
    redis.call('XACK', KEYS[3], group, id)
    redis.call('HDEL', KEYS[4], id)
    missed = missed + 1
  end
end

-- Returns whether there may be more.
local function take_from(gone)
  local from = '-'
  for _ = 1, 5 do
    local pending = redis.call('XPENDING', KEYS[3], group, from, '+', 200)
    for _, item in ipairs(pending) do
      if taken >= most or bytes >= bytes_left then return true end
      if gone[item[2]] then take_over(item[1]) end
    end
    if #pending < 200 then return false end
    from = '(' .. pending[#pending][1]
  end
  return true
end

local function note_gap(removed)
  local position = tonumber(redis.call('HGET', KEYS[2], 'position') or '')
  if position and removed > position then
    missed = missed + removed - position
    results[3] = redis.call('HGET', KEYS[2], 'last') or ''
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
local more = gone and take_from(gone)
if gone and not more then
  for owner in pairs(gone) do remove_if_idle(KEYS[3], group, owner) end
end
if not more then read_new() end
if missed > 0 then redis.call('HINCRBY', KEYS[2], 'missed', missed) end
results[2] = missed
return results
