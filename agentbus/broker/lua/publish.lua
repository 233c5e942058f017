#!lua
--@include clock
--@include entry
--@include due
--@include room
--@include window
--@include topic_policy
--@include loops
--@include owe
-- Stores one frozen batch of one publisher.
--
-- KEYS   1 producer record   2 ledger   3 lanes   4 due   5 delayed   6 dead
--        7 keys:0   8 keys:1   9 keys:due   10..14 lane:critical .. lane:background   15 policy
--        16 loops:0   17 loops:1   18 owed   19 owed:messages   where there are options
-- ARGV   1 position of the first message   2 one digit per message: its lane (0 critical .. 4 background)
--        3 life of the producer record (ms)   4 most unsettled messages   5 window of keys (ms)
--        6 options: '' or JSON {"<index>": {id, ttl, delay, at, key, digest, strict, hops, pair}, loops: [most
--          hops, most messages, window], owed} (ms); `loops` where a message has hops, `owed` where copies of
--          one are owed from now on, see include/owe
--        7 nudge channel   8 .. the messages (JSON text)
-- Returns {'stored', served, durability by policy or '', result …}   in order of the messages: an entry id,
--         'due <id> <time in ms>', or '!refusal'; the durability goes on with ` <type>=<level>` for each
--         message type that has its own
--         {'recovered', served, durability, refusals as JSON}   this batch was stored before
--         {'gap', last}                                   positions are missing or repeated; nothing written
--
-- Atomic because the record, the entries and the counters must tell the same story: a lost reply is
-- answered from the record, and the same batch never stores anything twice. Not allow-oom: a full server
-- refuses new work so that settling can go on.
local PRIORITY_ALLOWANCE = {-600000, 0, 2000, 30000, 300000}
local NAMES = {'critical', 'high', 'normal', 'low', 'background'}
local first, digits = tonumber(ARGV[1]), ARGV[2]
local count = #digits
local record_ms, limit, window = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local policy = redis.call('HMGET', KEYS[15], 'limit', 'ttl_ms', 'durability', 'topics')
limit = tonumber(policy[1]) or limit
local default_ttl, durability = tonumber(policy[2]), policy[3] or ''
local topic_ttls
if policy[4] then topic_ttls, durability = topic_policies(KEYS[15], policy[4], durability) end
local room, served, unarchived = room_left(KEYS[2], KEYS[6], limit, count)

local record = redis.call('GET', KEYS[1])
local last = 0
if record then
  local recorded_first, recorded_last, refusals = string.match(record, '^(%d+) (%d+) (.*)$')
  last = tonumber(recorded_last) or 0
  if tonumber(recorded_first) == first and last == first + count - 1 then
    return {'recovered', served, durability, refusals}
  end
end
if first ~= last + 1 then return {'gap', last} end

local options = ARGV[6] ~= '' and cjson.decode(ARGV[6]) or nil
local now = (options or default_ttl or topic_ttls) and now_ms()
local debts = options and options.owed and debt_book(KEYS[18], KEYS[19], options.owed, now)
local loops = options and options.loops and loop_guard(KEYS[15], KEYS[16], KEYS[17], options.loops, now)
local refused, any_refused = {}, false
local added = {0, 0, 0, 0, 0}
local results = {'stored', served, durability}
local accepted = 0

-- Idempotency: returns nil to go on, or the refusal ('duplicate <entry>' or 'conflict'), or the server's own.
-- All three buckets are read, so that writing to one of them afterwards cannot fail in mid-batch.
local function seen_key(option)
  if not option.key then return nil end
  for _, bucket in ipairs({KEYS[7], KEYS[8], KEYS[9]}) do
    local found = redis.pcall('HGET', bucket, option.key)
    if failed(found) then return 'error ' .. bucket .. ': ' .. found.err end
    if found then
      local digest, entry = string.match(found, '^(%S+) (.*)$')
      if digest == option.digest then return 'duplicate ' .. entry end
      return 'conflict'
    end
  end
  return nil
end

local function remember_key(option, entry, due)
  if not option.key then return end
  if due then
    redis.call('HSET', KEYS[9], option.key, option.digest .. ' ' .. entry)
  else
    remember_in_window(KEYS[7], KEYS[8], window, now, option.key, option.digest, entry)
  end
end

local function store_delayed(option, lane, message, state, due)
  state.lane = NAMES[lane]
  state.key, state.digest = option.key, option.digest
  local name = add_due(KEYS[4], KEYS[5], ARGV[7], option.id, message, state, due)
  return failed(name) and name or 'due ' .. name
end

local function store_special(option, lane, message, policy_ttl)
  if option.strict and served == 0 then return '!unknown' end
  local seen = seen_key(option)
  if seen then return '!' .. seen end
  local looping = option.pair and loops.refusal(option, message)
  if looping then return '!' .. looping end
  local state = {}
  local ttl = option.ttl or policy_ttl
  if ttl then state.expires = now + ttl end
  local due = option.at or (option.delay and now + option.delay)
  if due and due > now then
    if state.expires and state.expires <= due then return '!expires' end
    local stored = store_delayed(option, lane, message, state, due)
    if failed(stored) then return stored end
    if option.pair then loops.count(option) end
    remember_key(option, stored, true)
    return string.format('%s %.0f', stored, due)
  end
  local stored = add_entry(KEYS[9 + lane], message, state)
  if not failed(stored) then
    added[lane] = added[lane] + 1
    if option.pair then loops.count(option) end
    remember_key(option, NAMES[lane] .. ' ' .. stored, false)
  end
  return stored
end

for i = 1, count do
  local lane = string.byte(digits, i) - 47
  local ttl = topic_ttls and topic_ttls[type_of(ARGV[7 + i])] or default_ttl
  local option = options and options[tostring(i)] or ttl and {}
  local owed = debts and debts.has(i)
  local stored
  if room <= 0 then
    stored = unarchived > 0 and string.format('!full archive %d', unarchived) or '!full'
  elseif owed and debts.full() then
    stored = debts.full()
  elseif option then
    stored = store_special(option, lane, ARGV[7 + i], ttl)
  else
    stored = redis.pcall('XADD', KEYS[9 + lane], '*', 'message', ARGV[7 + i])
    if not failed(stored) then added[lane] = added[lane] + 1 end
  end
  if failed(stored) then stored = '!error ' .. (stored.key or KEYS[9 + lane]) .. ': ' .. stored.err end
  if string.sub(stored, 1, 1) == '!' then
    refused[tostring(i)] = string.sub(stored, 2)
    any_refused = true
  else
    accepted = accepted + 1
    room = room - 1
    if owed then
      debts.add(i, string.find(stored, '^due ') and '-' or NAMES[lane] .. ':' .. stored, ARGV[7 + i])
    end
  end
  results[3 + i] = stored
end

redis.call('SET', KEYS[1],
  string.format('%d %d %s', first, first + count - 1, any_refused and cjson.encode(refused) or ''), 'PX', record_ms)
if loops then loops.finish() end
if debts then debts.write() end
if accepted > 0 then redis.call('HINCRBY', KEYS[2], 'accepted', accepted) end
for lane = 1, 5 do
  if added[lane] > 0 then
    redis.call('HINCRBY', KEYS[2], 'added:' .. NAMES[lane], added[lane])
    now = now or now_ms()
    -- The index may hold another type by somebody's mistake: it is only an index, the sweep says so.
    redis.pcall('ZADD', KEYS[3], 'NX', now + PRIORITY_ALLOWANCE[lane], NAMES[lane])
  end
end
return results
