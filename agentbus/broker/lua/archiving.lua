#!lua flags=allow-oom
-- Says whether messages of an inbox that have ended and are not archived count against its limit.
--
-- KEYS   1 ledger
-- ARGV   1 1 = they count, 0 = they do not
-- Returns 1 when that is new, else 0
--
-- What ended before is forgiven: of what is left of it in the streams nobody knows the number, and an address
-- must not become full at the moment somebody turns an archive on.
local counts = redis.call('HGET', KEYS[1], 'archiving') == '1'
if counts == (ARGV[1] == '1') then return 0 end
if counts then
  redis.call('HDEL', KEYS[1], 'archiving')
  return 1
end
local ended = -(tonumber(redis.call('HGET', KEYS[1], 'archived')) or 0)
for _, count in ipairs(redis.call('HMGET', KEYS[1], 'processed', 'expired', 'cancelled', 'discarded', 'resolved',
  'moved')) do
  ended = ended + (tonumber(count) or 0)
end
redis.call('HSET', KEYS[1], 'archiving', 1, 'forgiven', string.format('%d', ended))
return 1
