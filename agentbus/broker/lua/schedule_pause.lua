#!lua flags=allow-oom
--@include entry
-- Pauses a schedule: it has no next tick until somebody resumes it.
--
-- KEYS   1 ticks   2 schedules
-- ARGV   1 schedule id
-- Returns 'paused' (also when it was before), 'ended' or 'unknown'
--
-- Atomic because a tick that a scheduler sends at the same moment happens before the pause or not at all.
local id = ARGV[1]
if redis.call('HEXISTS', KEYS[2], id) == 0 then return 'unknown' end
local state = decode_state(redis.call('HGET', KEYS[2], id .. ':state'))
if state.ended_at then return 'ended' end
redis.call('ZREM', KEYS[1], id)
state.enabled, state.next_send_at = false, nil
redis.call('HSET', KEYS[2], id .. ':state', encode_state(state))
return 'paused'
