#!lua flags=allow-oom
--@include leaving
-- Ends one dead letter: nobody wants it.
--
-- KEYS   1 ledger   2 dead   3 ended   4 outcomes   5 unannounced
-- ARGV   1 by whom   2 letter id
-- Returns {'dropped', its id in `ended`}; {'gone'}
--
-- It stays as history like any other ended message, and counts as discarded.
-- Asked before anything is written: a ledger of another type must not leave the letter in two places.
local announced = announced_until(KEYS[1])
local letter, fields = letter_fields(KEYS[2], ARGV[2])
if not letter then return {'gone'} end
for _, value in ipairs({'letter', ARGV[2], 'outcome', 'discarded'}) do fields[#fields + 1] = value end
local id = redis.call('XADD', KEYS[3], '*', unpack(fields))
keep_for_notice(KEYS[5], announced, ARGV[2], letter)
redis.call('XDEL', KEYS[2], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'discarded', 1)
redis.call('XADD', KEYS[4], '*', 'consumer', ARGV[1], 'outcome', 'discarded', 'ended', id)
return {'dropped', id}
