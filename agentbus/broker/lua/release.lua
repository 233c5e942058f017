#!lua flags=allow-oom
--@include clock
--@include entry
--@include held
--@include record
-- Hands deliveries back at once, nothing spent.
--
-- KEYS   1 alive   2 ledger   3 outcomes   4 returned   5..9 lane:critical .. lane:background
-- ARGV   1 consumer   2, 3 .. source and its entry ids, joined by spaces
-- Returns {'released', how many}; {'fenced'}
--
-- They go to `returned`, which is read before the lanes: a message keeps its place before a million waiting.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local now = now_ms()
local record, expiries = {}, {}

local function give_back(source, id)
  local stream = KEYS[4 + source]
  local fields, problem = held_fields(stream, id, ARGV[1])
  if not fields then
    if problem == 'vanished' then
      redis.call('XACK', stream, 'inbox', id)
      redis.call('HINCRBY', KEYS[2], 'vanished', 1)
    end
    return
  end
  local message, text = parts(fields)
  local state = decode_state(text)
  if ends_unseen(message, state, now) then
    redis.call('XACK', stream, 'inbox', id)
    note(expiries, source, id)
    return
  end
  if not state.lane then state.lane = SOURCES[source + 1] end
  local added
  if message then
    added = add_entry(KEYS[4], message, state)
  else
    added = add_raw(KEYS[4], fields)
  end
  -- A `returned` that cannot take entries leaves the delivery where it is; the next sweep tries again.
  if failed(added) then return end
  take_away(stream, id)
  note(record, source, id)
end

for i = 2, #ARGV, 2 do
  for id in string.gmatch(ARGV[i + 1], '%S+') do give_back(tonumber(ARGV[i]), id) end
end
local released = record.count or 0
if released > 0 then
  redis.call('HINCRBY', KEYS[2], 'released', released)
  redis.call('HINCRBY', KEYS[2], 'added:returned', released)
  write_record(KEYS[3], ARGV[1], 'released', record)
end
if expiries.count then
  redis.call('HINCRBY', KEYS[2], 'expired', expiries.count)
  write_record(KEYS[3], ARGV[1], 'expired', expiries)
end
return {'released', released}
