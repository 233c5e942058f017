#!lua flags=allow-oom
--@include clock
--@include entry
--@include due
--@include letters
--@include record
--@include marks
-- Takes everything from a consumer that is dead, in bounded steps.
--
-- KEYS   1 alive   2 started   3 ledger   4 dead   5 outcomes   6 returned   7..11 lanes
--        12 due   13 delayed   14 resolved   15 policy   16 cancelled
-- ARGV   1 consumer   2 the beat that the reclaimer saw stand still; '' = the name is not in `alive`
--        3 most entries   4 crashes that make a message dead   5 nudge channel
-- Returns {'reclaimed', moved, 1 if there is more, how many of the dead letters are parked,
--          messages that became dead letters …}
--         {'alive'}   the beat has moved, or the name came back: nothing was done
--
-- The beat is compared once more and the field deleted in the same script that takes the first entry: from
-- then on the old owner can settle nothing. A death charges what had never crashed an owner before, and
-- the one suspect that was started; a consumer that was draining charges nobody. Whether it charges is kept in
-- `started` until the last step: any reclaimer may go on with a takeover, and none is asked what it knows.
local consumer, seen, most, fatal = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local beat = redis.call('HGET', KEYS[1], consumer)
-- A field beside the consumer's own: names of consumers hold no spaces.
local charges = consumer .. ' charges'
local known = redis.call('HMGET', KEYS[2], consumer, charges)
local started, charge = known[1], known[2] == '1'
if seen == '' then
  if beat then return {'alive'} end
else
  if beat ~= seen then return {'alive'} end
  charge = not string.find(seen, 'draining', 1, true)
  redis.call('HSET', KEYS[2], charges, charge and 1 or 0)
  redis.call('HDEL', KEYS[1], consumer)
end
local now, moved, ended, vanished, bytes, kept, parked = now_ms(), 0, 0, 0, 0, 0, 0
local letters, returned, expiries, cancelled = {}, {}, {}, {}
-- Bodies moved in one step: it must not hold up the server.
local MOST_BYTES = 4194304

local function charge_death(state, source, id)
  if not charge then return end
  local crashes = state.crashes or 0
  if crashes == 0 or started == source .. ' ' .. id then state.crashes = crashes + 1 end
end

local function bury(source, id, message, state)
  local letter = letter_of('crashed', 'its owner died ' .. state.crashes .. ' times while running it',
    state.lane, id, consumer, (state.attempt or 0) + 1, '')
  local room = dead_room(KEYS[4], KEYS[14], KEYS[15], KEYS[3])
  local dead = room and add_letter(KEYS[4], letter, message, state)
    or park(KEYS[12], KEYS[13], ARGV[5], id, letter, message, state, now)
  if failed(dead) then return false end
  if not room then parked = parked + 1 end
  redis.call('XADD', KEYS[5], '*', 'consumer', consumer, 'outcome', room and 'dead' or 'parked',
    SOURCES[source + 1], id)
  letters[#letters + 1] = message
  return true
end

-- Puts one entry where it belongs now; false leaves it pending for a later sweep.
local function place(stream, source, id, fields)
  -- A parked read whose reply was lost may have taken what was cancelled.
  local by = take_mark(KEYS[16], source, id)
  if by then
    ended = ended + 1
    end_cancelled(cancelled, stream, source, id, by)
    return false
  end
  local message, text = parts(fields)
  bytes = bytes + #(message or '')
  if not message then return not failed(add_raw(KEYS[6], fields)), true end
  local state = decode_state(text)
  if not state.lane then state.lane = SOURCES[source + 1] end
  if ends_unseen(message, state, now) then
    ended = ended + 1
    note(expiries, source, id)
    redis.call('XACK', stream, 'inbox', id)
    return false
  end
  charge_death(state, source, id)
  if (state.crashes or 0) >= fatal then return bury(source, id, message, state), false end
  return not failed(add_entry(KEYS[6], message, state)), true
end

local function take(stream, source, id)
  local entries = redis.call('XRANGE', stream, id, id)
  if #entries == 0 then
    redis.call('XACK', stream, 'inbox', id)
    vanished = vanished + 1
    return
  end
  local before = ended
  local placed, to_returned = place(stream, source, id, entries[1][2])
  if not placed then
    if ended == before then kept = kept + 1 end
    return
  end
  redis.call('XACK', stream, 'inbox', id)
  redis.call('XDEL', stream, id)
  moved = moved + 1
  if to_returned then note(returned, source, id) end
end

local more = false
for source = 0, 5 do
  local stream, room = KEYS[6 + source], most - moved - ended - vanished
  if room <= 0 or bytes >= MOST_BYTES then more = true break end
  local pending = redis.pcall('XPENDING', stream, 'inbox', '-', '+', room, consumer)
  if not failed(pending) then
    local cut = #pending == room
    for _, item in ipairs(pending) do
      if bytes >= MOST_BYTES then cut = true break end
      take(stream, source, item[1])
    end
    if cut then
      more = true
    elseif #redis.call('XPENDING', stream, 'inbox', '-', '+', 1, consumer) == 0 then
      redis.call('XGROUP', 'DELCONSUMER', stream, 'inbox', consumer)
    end
  end
end
-- Streams that take no entries keep what they would have got with its owner, for a later sweep: a step that
-- could do nothing is the last of its takeover, or the reclaimer would never rest.
if moved + ended + vanished == 0 then more = false end
if not more and kept == 0 then redis.call('HDEL', KEYS[2], consumer, charges) end
if vanished > 0 then redis.call('HINCRBY', KEYS[3], 'vanished', vanished) end
if parked > 0 then redis.call('HINCRBY', KEYS[3], 'parked', parked) end
if returned.count then
  redis.call('HINCRBY', KEYS[3], 'reclaimed', returned.count)
  redis.call('HINCRBY', KEYS[3], 'added:returned', returned.count)
  write_record(KEYS[5], consumer, 'reclaimed', returned)
end
write_cancelled(KEYS[3], KEYS[5], cancelled)
if expiries.count then
  redis.call('HINCRBY', KEYS[3], 'expired', expiries.count)
  write_record(KEYS[5], consumer, 'expired', expiries)
end
return {'reclaimed', moved + ended, more and 1 or 0, parked, unpack(letters)}
