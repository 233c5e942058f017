#!lua flags=allow-oom
--@include clock
-- Raises a consumer's beat counter.
--
-- KEYS   1 alive
-- ARGV   1 consumer   2 loop lag in ms   3 'serving' or 'draining'
-- Returns {1, server time in ms, consumers alive here}; {0, server time} when the consumer is fenced.
--
-- The lease, which the consumer gave when it joined, stays behind the phase: whoever judges it must know it.
-- Never creates the field: a consumer that was declared dead must notice and take a new name. allow-oom:
-- otherwise the whole living fleet would be declared dead exactly when the server is full.
local beat = redis.call('HGET', KEYS[1], ARGV[1])
if not beat then return {0, now_ms()} end
local counter = tonumber(string.match(beat, '^%d+')) or 0
local lease = string.match(beat, '^%d+ %d+ %a+( %d+)$') or ''
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %d %s%s', counter + 1, tonumber(ARGV[2]), ARGV[3], lease))
return {1, now_ms(), redis.call('HLEN', KEYS[1])}
