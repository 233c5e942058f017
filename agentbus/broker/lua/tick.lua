#!lua
--@include clock
--@include entry
--@include room
--@include topic_policy
--@include owe
-- Lets one tick of a schedule happen: adds its message and advances to the next tick.
--
-- KEYS   1 ticks   2 schedules   3 ledger   4 policy   5 the lane or the log that takes the message
--        6 owed   7 owed:messages   8 lanes   9 dead   (the last two of an inbox only)
-- ARGV   1 schedule id   2 the tick that the caller means (ms)   3 the next tick (ms), '' when there is none
--        4 name of the lane, or 'log'   5 most unsettled messages of an inbox, or messages in a log
--        6 time to live (ms) or ''   7 how many ticks are passed over without a message of their own
--        8 how long an ended schedule can still be looked at (ms)   9 the message (JSON), '' for none
--        10 SHA-1 of the definition that the message was made from, '' when it has none
--        11 JSON as include/owe takes it where copies of the message are owed; '' where none are
-- Returns {'sent', entry id}       or {'passed'} when no message was given
--         {'moved', tick or ''}    this is not the schedule's next tick (any more), or somebody cancelled it
--                                  and added another of its name since it was read; nothing written
--         {'early', time in ms}    by the server's clock it is not time yet; nothing written
--         {'full'}                 the address takes no more now; nothing written, the tick stays due
--         {'refused', text}        the stream refuses the message; nothing written, the tick stays due
--
-- Atomic because the comparison, the message and the advance are one: of any number of schedulers that see
-- the same tick one sends it, and one that dies has done all of it or nothing. Not allow-oom: it stores new
-- work, as publish does; a full server keeps the tick for later.
local ALLOWANCE = {critical = -600000, high = 0, normal = 2000, low = 30000, background = 300000}
local id, expected, upcoming, lane = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local message = ARGV[9]

local noted = redis.call('ZSCORE', KEYS[1], id)
local other = ARGV[10] ~= '' and redis.sha1hex(redis.call('HGET', KEYS[2], id) or '') ~= ARGV[10]
if not noted or tonumber(noted) ~= expected or other then
  return {'moved', noted and string.format('%.0f', noted) or ''}
end
local now = now_ms()
if expected > now then return {'early', now} end
local schedule = decode_state(redis.call('HGET', KEYS[2], id .. ':state'))
local policy = redis.call('HMGET', KEYS[4], 'limit', 'ttl_ms', 'topics')
local limit = tonumber(policy[1]) or tonumber(ARGV[5])
-- Asked before anything is written: an error after a write would leave half a story.
redis.call('HGET', KEYS[3], 'accepted')
local debts = ARGV[11] ~= '' and debt_book(KEYS[6], KEYS[7], cjson.decode(ARGV[11]), now)

local function send()
  local room = lane == 'log' and limit - redis.call('XLEN', KEYS[5]) or room_left(KEYS[3], KEYS[9], limit, 1)
  if room <= 0 then return {'full'} end
  local topic_ttls = policy[3] and topic_policies(KEYS[4], policy[3], '') or {}
  local state, ttl = {}, tonumber(ARGV[6]) or topic_ttls[type_of(message)] or tonumber(policy[2])
  if ttl and lane ~= 'log' then state.expires = now + ttl end
  local entry = add_entry(KEYS[5], message, state)
  if failed(entry) then return {'refused', KEYS[5] .. ': ' .. entry.err} end
  redis.call('HINCRBY', KEYS[3], 'accepted', 1)
  redis.call('HINCRBY', KEYS[3], 'added:' .. lane, 1)
  -- The index may hold another type by somebody's mistake: it is only an index, the sweep says so.
  if lane ~= 'log' then redis.pcall('ZADD', KEYS[8], 'NX', now + ALLOWANCE[lane], lane) end
  if debts then
    debts.add(1, lane .. ':' .. entry, message)
    debts.write()
  end
  return {'sent', entry}
end

local answer = {'passed'}
if message ~= '' then
  answer = send()
  if answer[1] ~= 'sent' then return answer end
  schedule.sent = (tonumber(schedule.sent) or 0) + 1
  schedule.last_sent_at = now
end
schedule.missed = (tonumber(schedule.missed) or 0) + tonumber(ARGV[7])
schedule.next_send_at = upcoming
if not upcoming then schedule.ended_at = now end
redis.call('HSET', KEYS[2], id .. ':state', encode_state(schedule))
redis.call('ZADD', KEYS[1], upcoming or now + tonumber(ARGV[8]), id)
return answer
