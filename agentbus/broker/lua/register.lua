#!lua flags=allow-oom
--@include clock
-- An instance of an agent serves, or still serves.
--
-- KEYS   1 the agent's record
-- ARGV   1 instance id   2 what it says of itself (JSON object)   3 'begin' or 'beat'
--        4 type   5 capabilities (JSON list)   6 '1' when 4 and 5 are only a guess: what is written stays
--        7 an instance is forgotten after so many missed beats
-- Returns {server time in ms, the type that was written before, or ''}
--
-- Atomic, so that a beat and the pruning of the dead cannot lose an instance that registers in between. A beat
-- writes type and capabilities only where they are gone: of two processes that say different things the one that
-- began last is right, however the beats of both fall.
local now = now_ms()
local before = redis.call('HGET', KEYS[1], 'type')
local mine = cjson.decode(ARGV[2])
local field = 'instance:' .. ARGV[1]

local ok, known = pcall(cjson.decode, redis.call('HGET', KEYS[1], field) or '')
mine.since = ok and type(known) == 'table' and tonumber(known.since) or now
mine.last_seen = now
redis.call('HSET', KEYS[1], field, cjson.encode(mine))
redis.call('HSETNX', KEYS[1], 'registered_at', now)
if not before or (ARGV[3] == 'begin' and ARGV[6] ~= '1') then
  redis.call('HSET', KEYS[1], 'type', ARGV[4], 'capabilities', ARGV[5])
end

local fields = redis.call('HGETALL', KEYS[1])
for f = 1, #fields, 2 do
  if string.sub(fields[f], 1, 9) == 'instance:' and fields[f] ~= field then
    local read, other = pcall(cjson.decode, fields[f + 1])
    local seen = read and type(other) == 'table' and tonumber(other.last_seen)
    local beat = read and type(other) == 'table' and tonumber(other.beat_ms)
    -- Written by somebody's hand, or of a process that died long ago.
    if not seen or not beat or now - seen > beat * tonumber(ARGV[7]) then redis.call('HDEL', KEYS[1], fields[f]) end
  end
end
return {now, before or ''}
