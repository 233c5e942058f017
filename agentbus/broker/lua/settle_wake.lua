#!lua flags=allow-oom
-- Ends a claim: the address has been looked at.
--
-- KEYS   1 a sorted set of addresses by time: `wake`, `ticking` or `owing`
-- ARGV   1 address   2 score of the claim   3 time of its next look in ms; '' = nothing is left to come
-- Returns 1 when the claim still stood, else 0
--
-- Only a score that is still the claim's may be moved back or removed: anything else was announced, or
-- claimed by another, after this claimer took it. Then its next look may only come earlier.
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
local stands = score == tonumber(ARGV[2])
if ARGV[3] == '' then
  if stands then redis.call('ZREM', KEYS[1], ARGV[1]) end
elseif stands or not score then
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
else
  redis.call('ZADD', KEYS[1], 'LT', ARGV[3], ARGV[1])
end
return stands and 1 or 0
