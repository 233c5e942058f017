#!lua
--@include clock
-- Opens the receipts of a message that is about to be sent to named agents.
--
-- KEYS   1 rows
-- ARGV   1 how long they are kept (ms)   2 recipients (JSON list)   3 sender, or ''   4 channel, or ''
-- Returns {server time in ms}
--
-- Written before anything is sent: a recipient can only mark what is there, so that a mark that comes late does not
-- make a key without an end. What is there already stays: a message is sent again under the same id with its key.
local now = now_ms()
redis.call('HSETNX', KEYS[1], 'recipients', ARGV[2])
redis.call('HSETNX', KEYS[1], 'from', ARGV[3])
redis.call('HSETNX', KEYS[1], 'channel', ARGV[4])
redis.call('HSETNX', KEYS[1], 'opened', now)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {now}
