#!lua flags=allow-oom
--@include border
--@include history
-- Finds messages that somebody deleted while they waited: they left no trace but a ledger that does not close.
--
-- KEYS   1 ledger   2 dead   3 due   4 returned   5..9 lane:critical .. lane:background
-- ARGV   1 how many were missing at the last look; they are counted as vanished if it is as many now
--        2 most waiting entries to count
-- Returns {how many are missing, 1 if they were counted}
--         {-1, 0}   it cannot be said: too many wait to be counted, or a stream was deleted
--
-- One script: everything is added up at one moment. Two looks, because what somebody's hand took from its
-- owner is put back by the owner's audit a few seconds later.
local NAMES = {'returned', 'critical', 'high', 'normal', 'low', 'background'}
local missing, room = 0, tonumber(ARGV[2])

-- Entries of a stream that no script added, and those that wait or are held; nil when it cannot be said.
local function here_and_by_hand(stream, by_scripts)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then return by_scripts == 0 and 0 or nil, 0 end
  local fields = {}
  for f = 1, #info, 2 do fields[info[f]] = info[f + 1] end
  local group = group_of(stream)
  local last, pending = group and group['last-delivered-id'] or '0-0', group and group.pending or 0
  local waiting = 0
  if last ~= LARGEST and precedes(last, fields['last-generated-id']) then
    local count = readable(average_size(stream, fields.length), room)
    waiting = #redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', count)
    if waiting >= count then return nil end
    room = room - waiting
  end
  return pending + waiting, fields['entries-added'] - by_scripts
end

local ends = redis.call('HMGET', KEYS[1], 'processed', 'expired', 'cancelled', 'discarded', 'resolved', 'moved',
  'vanished')
missing = tonumber(redis.call('HGET', KEYS[1], 'accepted') or 0)
for i = 1, #ends do missing = missing - (tonumber(ends[i]) or 0) end
for i, name in ipairs(NAMES) do
  local here, by_hand = here_and_by_hand(KEYS[3 + i], tonumber(redis.call('HGET', KEYS[1], 'added:' .. name) or 0))
  if not here then return {-1, 0} end
  missing = missing + by_hand - here
end
missing = missing - redis.call('XLEN', KEYS[2]) - redis.call('ZCARD', KEYS[3])
if missing <= 0 or missing ~= tonumber(ARGV[1]) then return {math.max(0, missing), 0} end
redis.call('HINCRBY', KEYS[1], 'vanished', missing)
return {missing, 1}
