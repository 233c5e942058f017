#!lua flags=allow-oom
--@include subscriber
-- Acknowledges an entry that somebody deleted while a consumer held it.
--
-- KEYS   1 ledger, or the subscriber of a channel   2 the stream that held it
-- ARGV   1 entry id   2 the group where it is not that of an inbox
-- Returns 1; 0 when the entry exists, or was acknowledged already
--
-- One step, so that a repeated call, or a takeover in between, does not count it twice.
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) > 0 then return 0 end
if ARGV[2] then return let_go(KEYS[2], ARGV[2], KEYS[1], ARGV[1]) end
local gone = redis.call('XACK', KEYS[2], 'inbox', ARGV[1])
if gone > 0 then redis.call('HINCRBY', KEYS[1], 'vanished', gone) end
return gone
