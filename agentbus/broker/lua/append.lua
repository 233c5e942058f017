#!lua
--@include clock
--@include entry
--@include window
--@include topic_policy
--@include loops
--@include owe
-- Appends one frozen batch of one publisher to the log of a channel.
--
-- KEYS   1 producer record   2 ledger   3 log   4 keys:0   5 keys:1   6 policy
--        7 loops:0   8 loops:1   9 owed   10 owed:messages   where there are options
-- ARGV   1 position of the first message   2 life of the producer record (ms)
--        3 most messages in the log   4 window of keys (ms)
--        5 options: '' or JSON {"<index>": {key, digest, hops, pair}, loops: [...], owed} as in publish.lua
--        6 .. the messages (JSON text)
-- Returns as publish.lua does: {'stored', 1, durability by policy or '', entry id or '!refusal' ...}
--         {'recovered', 1, durability, refusals as JSON} or {'gap', last}. The 1: a channel needs nobody
--         who serves it.
--
-- Atomic for the reasons of publish.lua: record, entries and counters tell the same story. Not allow-oom: a
-- full server refuses new messages so that settling can go on.
local first, count = tonumber(ARGV[1]), #ARGV - 5
local record_ms, limit, window = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local policy = redis.call('HMGET', KEYS[6], 'limit', 'durability')
limit = tonumber(policy[1]) or limit
local durability = policy[2] or ''

local record = redis.call('GET', KEYS[1])
local last = 0
if record then
  local recorded_first, recorded_last, refusals = string.match(record, '^(%d+) (%d+) (.*)$')
  last = tonumber(recorded_last) or 0
  if tonumber(recorded_first) == first and last == first + count - 1 then
    return {'recovered', 1, durability, refusals}
  end
end
if first ~= last + 1 then return {'gap', last} end

-- Asked before anything is written: an error after a write would leave half a story.
redis.call('HGET', KEYS[2], 'accepted')
local room = limit - redis.call('XLEN', KEYS[3])
local options = ARGV[5] ~= '' and cjson.decode(ARGV[5]) or nil
local now = options and now_ms()
local debts = options and options.owed and debt_book(KEYS[9], KEYS[10], options.owed, now)
local loops = options and options.loops and loop_guard(KEYS[6], KEYS[7], KEYS[8], options.loops, now)
local refused, any_refused = {}, false
local results = {'stored', 1, durability}
local accepted = 0

-- nil to go on, or the refusal ('duplicate <entry>' or 'conflict'), or the server's own.
local function seen_key(option)
  for bucket = 4, 5 do
    local found = redis.pcall('HGET', KEYS[bucket], option.key)
    if failed(found) then return 'error ' .. KEYS[bucket] .. ': ' .. found.err end
    if found then
      local digest, entry = string.match(found, '^(%S+) (.*)$')
      if digest == option.digest then return 'duplicate ' .. entry end
      return 'conflict'
    end
  end
  return nil
end

for i = 1, count do
  local option = options and options[tostring(i)]
  local seen = option and option.key and seen_key(option)
  local owed = debts and debts.has(i)
  local looping = option and option.pair and not seen and loops.refusal(option, ARGV[5 + i])
  local stored
  if room <= 0 then
    stored = '!full'
  elseif owed and debts.full() then
    stored = debts.full()
  elseif seen or looping then
    stored = '!' .. (seen or looping)
  else
    stored = redis.pcall('XADD', KEYS[3], '*', 'message', ARGV[5 + i])
    if failed(stored) then
      stored = '!error ' .. KEYS[3] .. ': ' .. stored.err
    else
      if option and option.pair then loops.count(option) end
      if option and option.key then
        remember_in_window(KEYS[4], KEYS[5], window, now, option.key, option.digest, 'log ' .. stored)
      end
    end
  end
  if string.sub(stored, 1, 1) == '!' then
    refused[tostring(i)] = string.sub(stored, 2)
    any_refused = true
  else
    accepted = accepted + 1
    room = room - 1
    if owed then debts.add(i, 'log:' .. stored, ARGV[5 + i]) end
  end
  results[3 + i] = stored
end

redis.call('SET', KEYS[1],
  string.format('%d %d %s', first, first + count - 1, any_refused and cjson.encode(refused) or ''), 'PX', record_ms)
if loops then loops.finish() end
if debts then debts.write() end
if accepted > 0 then
  redis.call('HINCRBY', KEYS[2], 'accepted', accepted)
  redis.call('HINCRBY', KEYS[2], 'added:log', accepted)
end
return results
