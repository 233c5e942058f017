#!lua
--@include clock
--@include entry
--@include leaving
-- Hands dead letters out again, each with a fresh budget.
--
-- KEYS   1 ledger   2 dead   3 lanes   4 outcomes   5 unannounced   6..10 lane:critical .. lane:background
-- ARGV   1 by whom   2 retries (a person asked) or automatic_retries (a policy did): what the state counts
--        3 a new message for the only letter, '' to keep its own   4 .. letter ids
-- Returns for each letter: 'retried <lane> <entry id>', 'gone', 'malformed' (it holds no message),
--         'later' (the call has moved enough bytes: ask again), or 'refused <why>'
--
-- The entry is looked for, added to its lane and deleted in one step: a letter that is retried twice, or by two
-- people at once, becomes one message. Not allow-oom: a full server is to be drained, not filled.
local ALLOWANCE = {critical = -600000, high = 0, normal = 2000, low = 30000, background = 300000}
local PLACE = {critical = 6, high = 7, normal = 8, low = 9, background = 10}
-- Bodies moved in one call: it must not hold up the server.
local MOST_BYTES = 1048576
local by, counter, replacement = ARGV[1], ARGV[2], ARGV[3]
local now, bytes, retried, results = now_ms(), 0, {}, {}
local announced, added_to, seen = announced_until(KEYS[1]), {}, {}

-- What the new life keeps of the old one: the first failure, how often it was handed out again, and its time
-- to live if that is not over.
local function reborn(text)
  local state = decode_state(text)
  for _, field in ipairs({'attempt', 'crashes', 'bounces', 'deferrals', 'lane', 'held', 'parked'}) do
    state[field] = nil
  end
  if state.expires and state.expires <= now then state.expires = nil end
  state[counter] = (is_count(state[counter]) and state[counter] or 0) + 1
  if replacement ~= '' then state.edited = true end
  return state
end

local function retry(id)
  local letter = not seen[id] and letter_fields(KEYS[2], id)
  if not letter then return 'gone' end
  local message = replacement ~= '' and replacement or letter.message
  if not message or message == '' then return 'malformed' end
  if bytes > 0 and bytes + #message > MOST_BYTES then
    bytes = MOST_BYTES
    return 'later'
  end
  local lane = PLACE[letter.lane] and letter.lane or 'normal'
  local added = add_entry(KEYS[PLACE[lane]], message, reborn(letter.state))
  if failed(added) then return 'refused ' .. KEYS[PLACE[lane]] .. ': ' .. added.err end
  keep_for_notice(KEYS[5], announced, id, letter)
  added_to[lane] = (added_to[lane] or 0) + 1
  seen[id] = true
  bytes = bytes + #message
  retried[#retried + 1] = id
  return 'retried ' .. lane .. ' ' .. added
end

for i = 4, #ARGV do
  results[#results + 1] = bytes >= MOST_BYTES and 'later' or retry(ARGV[i])
end
if #retried > 0 then
  redis.call('XDEL', KEYS[2], unpack(retried))
  for lane, count in pairs(added_to) do
    redis.call('HINCRBY', KEYS[1], 'added:' .. lane, count)
    redis.pcall('ZADD', KEYS[3], 'NX', now + ALLOWANCE[lane], lane)
  end
  redis.call('HINCRBY', KEYS[1], 'redriven', #retried)
  redis.call('XADD', KEYS[4], '*', 'consumer', by, 'outcome', 'redriven', 'dead', table.concat(retried, ' '))
end
return results
