#!lua flags=allow-oom
--@include clock
--@include entry
--@include held
--@include due
-- Moves one delivery to `due`: retried (an attempt is spent), deferred (none is), or bounced (nobody here
-- has a handler for its type).
--
-- KEYS   1 alive   2 ledger   3 due   4 delayed   5 outcomes   6 the stream that holds the entry
-- ARGV   1 consumer   2 entry id   3 source   4 delay in ms   5 retried, deferred or bounced
--        6 failure as JSON, '' for none   7 message id   8 nudge channel
-- Returns {'postponed', due time in ms}; {'gone'} when it is settled already; {'fenced'}
--
-- A move, never a copy: memory does not grow while a message is retried with the server full. The body is
-- written before the index and both before the removal, so no crash leaves less than one of them.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local fields, problem = held_fields(KEYS[6], ARGV[2], ARGV[1])
if not fields then
  if problem == 'vanished' then
    redis.call('XACK', KEYS[6], 'inbox', ARGV[2])
    redis.call('HINCRBY', KEYS[2], 'vanished', 1)
  end
  return {'gone'}
end
local message, text = parts(fields)
if not message then return redis.error_reply('ERR entry ' .. ARGV[2] .. ' is no message: it can only be buried') end
local state = decode_state(text)
if not state.lane then state.lane = SOURCES[tonumber(ARGV[3]) + 1] end
state.held = true
if ARGV[5] == 'retried' then state.attempt = (state.attempt or 0) + 1 end
if ARGV[5] == 'deferred' then state.deferrals = (state.deferrals or 0) + 1 end
if ARGV[5] == 'bounced' then state.bounces = (state.bounces or 0) + 1 end
add_failure(state, ARGV[6])
local due = now_ms() + tonumber(ARGV[4])
local added = add_due(KEYS[3], KEYS[4], ARGV[8], ARGV[7], message, state, due)
if failed(added) then return redis.error_reply(added.err) end
take_away(KEYS[6], ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[5], 1)
redis.call('XADD', KEYS[5], '*', 'consumer', ARGV[1], 'outcome', ARGV[5], SOURCES[tonumber(ARGV[3]) + 1], ARGV[2],
  'message_id', ARGV[7])
return {'postponed', due}
