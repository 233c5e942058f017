#!lua flags=allow-oom
--@include subscriber
-- Fences a dead consumer of a subscribing agent and charges its death.
--
-- KEYS   1 alive   2 started   3 subscriber   4 log   5 crashes
-- ARGV   1 consumer   2 the beat that the reclaimer saw stand still   3 the agent
-- Returns {'reclaimed', entries it held, 0, 0}; {'alive'} when the beat has moved: nothing was done
--
-- The beat is compared once more in the step that deletes it: from then on the old owner can settle nothing.
-- What it held is taken by the next reader, in the order of the log. Charged are what had never crashed an owner
-- and the one suspect that was started, as in an inbox: also of a consumer that ran one entry after the other
-- nobody knows which, since those before it may have ended without the news of it having been sent.
local consumer, group = ARGV[1], ARGV[3]
local beat = redis.call('HGET', KEYS[1], consumer)
if not beat or beat ~= ARGV[2] then return {'alive'} end
local started = redis.call('HGET', KEYS[2], consumer)
redis.call('HDEL', KEYS[1], consumer)
redis.call('HDEL', KEYS[2], consumer)
if redis.call('HGET', KEYS[3], 'active') == consumer then redis.call('HDEL', KEYS[3], 'active') end
local pending = pending_of(KEYS[4], group, consumer, 1000)
if not string.find(beat, 'draining', 1, true) then
  for _, item in ipairs(pending) do
    local first_time = redis.call('HEXISTS', KEYS[5], item[1]) == 0
    if first_time or started == '0 ' .. item[1] then redis.call('HINCRBY', KEYS[5], item[1], 1) end
  end
end
remove_if_idle(KEYS[4], group, consumer)
return {'reclaimed', #pending, 0, 0}
