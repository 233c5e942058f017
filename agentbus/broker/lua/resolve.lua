#!lua flags=allow-oom
--@include clock
--@include leaving
-- Ends one dead letter: somebody took care of it.
--
-- KEYS   1 ledger   2 dead   3 resolved   4 outcomes   5 unannounced
-- ARGV   1 by whom   2 letter id   3 what was done about it
-- Returns {'resolved', its id in `resolved`}; {'gone'}
--
-- One step, so that it is in one of the two streams at every moment, and counted once.
-- Asked before anything is written: a ledger of another type must not leave the letter in two places.
local announced = announced_until(KEYS[1])
local letter, fields = letter_fields(KEYS[2], ARGV[2])
if not letter then return {'gone'} end
for _, value in ipairs({'letter', ARGV[2], 'resolved_at', now_ms(), 'resolution', ARGV[3], 'resolved_by', ARGV[1]}) do
  fields[#fields + 1] = value
end
local id = redis.call('XADD', KEYS[3], '*', unpack(fields))
keep_for_notice(KEYS[5], announced, ARGV[2], letter)
redis.call('XDEL', KEYS[2], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'resolved', 1)
redis.call('XADD', KEYS[4], '*', 'consumer', ARGV[1], 'outcome', 'resolved', 'resolved', id)
return {'resolved', id}
