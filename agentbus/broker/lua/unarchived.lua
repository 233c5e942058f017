#!lua flags=allow-oom
--@include clock
--@include border
--@include history
-- Tells what of an address is not archived yet.
--
-- KEYS   1 archived   2 ledger   3 the stream: outcomes, or the log of a channel   4 policy
-- ARGV   1 outcomes or log
-- Returns {age in ms of the oldest that is not archived or -1 when there is none, 1 = retention knows a border,
--          1 = what has ended counts against the limit, how many ended, how many of them are archived,
--          how many had left before, how many were forgiven when the archive was turned on, the policy as it is stored}
--
-- One call of a few bytes for each address: ten thousand idle ones are looked at again and again. It writes
-- nothing.
local ENDINGS = {'processed', 'expired', 'cancelled', 'discarded', 'resolved', 'moved'}
local position = redis.call('HGET', KEYS[1], ARGV[1]) or '0-0'
local age = -1
-- After the largest id there is nothing, and the server refuses to look.
if position ~= LARGEST then
  local first = redis.call('XRANGE', KEYS[3], '(' .. position, '+', 'COUNT', 1)[1]
  if first then age = math.max(0, now_ms() - time_of(first[1])) end
end
local counters = redis.call('HMGET', KEYS[2], 'archiving', 'archived', 'archive_missing', 'forgiven',
  unpack(ENDINGS))
local ended = 0
for i = 5, #counters do ended = ended + (tonumber(counters[i]) or 0) end
return {
  age, redis.call('HEXISTS', KEYS[1], 'border'), counters[1] == '1' and 1 or 0, ended,
  tonumber(counters[2]) or 0, tonumber(counters[3]) or 0, tonumber(counters[4]) or 0,
  redis.call('HGETALL', KEYS[4]),
}
