#!lua flags=allow-oom
--@include clock
--@include entry
--@include held
-- Moves one delivery to the dead letters, whatever it contains.
--
-- KEYS   1 alive   2 ledger   3 dead   4 outcomes   5 the stream that holds the entry
-- ARGV   1 consumer   2 entry id   3 source   4 reason   5 detail   6 failure as JSON, '' for none   7 max retries
-- Returns {'buried', dead letter id}; {'gone'} when it is settled already; {'fenced'}
--
-- The fields of an entry that is no message are kept as `raw:<field>`, bytes and all; beyond a hundred of
-- them `raw_fields` says how many there were.
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
local letter = {
  'reason', ARGV[4], 'detail', ARGV[5], 'lane', state.lane or source, 'entry', ARGV[2], 'owner', ARGV[1],
  'attempts', (state.attempt or 0) + 1, 'max_retries', ARGV[7], 'state', encode_state(state),
}
if message then
  letter[#letter + 1] = 'message'
  letter[#letter + 1] = message
else
  -- Lua cannot unpack thousands of values: what is beyond the first hundred fields is counted, not kept.
  if #fields > 200 then
    letter[#letter + 1] = 'raw_fields'
    letter[#letter + 1] = #fields / 2
  end
  for i = 1, math.min(#fields, 200), 2 do
    letter[#letter + 1] = 'raw:' .. fields[i]
    letter[#letter + 1] = fields[i + 1]
  end
end
local id = redis.call('XADD', KEYS[3], '*', unpack(letter))
take_away(KEYS[5], ARGV[2])
redis.call('XADD', KEYS[4], '*', 'consumer', ARGV[1], 'outcome', 'dead', source, ARGV[2])
return {'buried', id}
