#!lua flags=allow-oom
--@include clock
--@include entry
--@include held
--@include due
--@include letters
-- Moves one delivery to the dead letters, whatever it contains.
--
-- KEYS   1 alive   2 ledger   3 dead   4 outcomes   5 the stream that holds the entry   6 due   7 delayed
--        8 resolved   9 policy
-- ARGV   1 consumer   2 entry id   3 source   4 reason   5 detail   6 failure as JSON, '' for none   7 max retries or ''
--        8 nudge channel
-- Returns {'buried', dead letter id}; {'parked', due time in ms} where the address has as many dead letters as
--         it may; {'gone'} when it is settled already; {'fenced'}
--
-- The fields of an entry that is no message are kept as `raw:<field>`, bytes and all; beyond a hundred of
-- them `raw_fields` says how many there were. A letter without room is parked, not dropped, and keeps nobody
-- from working.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local fields, problem = held_fields(KEYS[5], ARGV[2], ARGV[1])
if not fields then
  if problem == 'vanished' then
    redis.call('XACK', KEYS[5], 'inbox', ARGV[2])
    redis.call('HINCRBY', KEYS[2], 'vanished', 1)
  end
  return {'gone'}
end
local source = SOURCES[tonumber(ARGV[3]) + 1]
local message, text = parts(fields)
local state = decode_state(text)
add_failure(state, ARGV[6])
local letter = letter_of(
  ARGV[4], ARGV[5], state.lane or source, ARGV[2], ARGV[1], (state.attempt or 0) + 1, ARGV[7])
if not message then keep_raw(letter, fields) end

if not dead_room(KEYS[3], KEYS[8], KEYS[9], KEYS[2]) then
  local parked = park(KEYS[6], KEYS[7], ARGV[8], ARGV[2], letter, message, state, now_ms())
  if parked.err then return redis.error_reply(parked.err) end
  take_away(KEYS[5], ARGV[2])
  redis.call('HINCRBY', KEYS[2], 'parked', 1)
  redis.call('XADD', KEYS[4], '*', 'consumer', ARGV[1], 'outcome', 'parked', source, ARGV[2], 'message_id', parked[2])
  return {'parked', parked[1]}
end
local id = add_letter(KEYS[3], letter, message, state)
if failed(id) then return redis.error_reply(id.err) end
take_away(KEYS[5], ARGV[2])
redis.call('XADD', KEYS[4], '*', 'consumer', ARGV[1], 'outcome', 'dead', source, ARGV[2])
return {'buried', id}
