#!lua flags=allow-oom
--@include entry
-- Resumes a paused schedule.
--
-- KEYS   1 ticks   2 schedules
-- ARGV   1 schedule id   2 its next tick (ms)
-- Returns 'resumed', 'running' (it was not paused: its tick stays as it is), 'ended' or 'unknown'
--
-- Atomic because two that resume at once must not set the tick back behind one that was sent meanwhile.
local id, upcoming = ARGV[1], tonumber(ARGV[2])
if redis.call('HEXISTS', KEYS[2], id) == 0 then return 'unknown' end
local state = decode_state(redis.call('HGET', KEYS[2], id .. ':state'))
if state.ended_at then return 'ended' end
if state.enabled and redis.call('ZSCORE', KEYS[1], id) then return 'running' end
redis.call('ZADD', KEYS[1], upcoming, id)
state.enabled, state.next_send_at = true, upcoming
redis.call('HSET', KEYS[2], id .. ':state', encode_state(state))
return 'resumed'
