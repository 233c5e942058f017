#!lua flags=allow-oom
--@include border
--@include entry
--@include record
--@include marks
-- Cancels messages that wait or are due.
--
-- KEYS   1 ledger   2 outcomes   3 cancelled   4 due   5 delayed   6 keys:due   7 ended   8 returned
--        9..13 lane:critical .. lane:background
-- ARGV   1 by whom   2, 3 .. where and what: `due` and a name there, or a source and an entry id
-- Returns for each one 'cancelled', 'marked' (it ends when its turn comes), 'held <consumer>', 'gone', or
--         'refused <what the server said>'
--
-- What is due moves to `ended`, as history, and counts at once. What waits is marked, because an entry that is
-- deleted while it waits breaks the group's count; those at the head are read through the group and end here, so
-- that an inbox which nobody serves is rid of them, too. One script: what was handed out meanwhile is refused,
-- and nobody gets what was marked. Marks are looked at by every step that hands out or takes over.
local MOST_ENDED = 200
local by, answers, touched, cancelled, ended = ARGV[1], {}, {}, {}, 0

local function last_delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == 'inbox' then return fields['last-delivered-id'] end
  end
  return nil
end

local function cancel_due(name)
  local found = redis.call('HMGET', KEYS[5], name, name .. ':state')
  if not found[1] or not redis.call('ZSCORE', KEYS[4], name) then return 'gone' end
  local added = redis.pcall('XADD', KEYS[7], '*', 'message', found[1], 'state', found[2] or '{}',
    'outcome', 'cancelled')
  if failed(added) then return 'refused ' .. added.err end
  redis.call('ZREM', KEYS[4], name)
  redis.call('HDEL', KEYS[5], name, name .. ':state')
  local state = decode_state(found[2])
  if state.key then redis.pcall('HDEL', KEYS[6], state.key) end
  redis.call('HINCRBY', KEYS[1], 'cancelled', 1)
  redis.call('XADD', KEYS[2], '*', 'consumer', by, 'outcome', 'cancelled', 'ended', added)
  return 'cancelled'
end

local function mark(source, id)
  local stream = KEYS[8 + source]
  if #redis.call('XRANGE', stream, id, id) == 0 then return 'gone' end
  local last = last_delivered(stream)
  if last and not precedes(last, id) then
    local pending = redis.call('XPENDING', stream, 'inbox', id, id, 1)
    return #pending > 0 and 'held ' .. pending[1][2] or 'gone'
  end
  redis.call('HSETNX', KEYS[3], source .. ' ' .. id, by)
  touched[source] = true
  return 'marked'
end

-- Ends marked ones as long as the next one to be handed out is marked. The reader exists within this call only.
local function end_heads(source)
  local stream = KEYS[8 + source]
  local last, reader = last_delivered(stream), 'cancelling'
  if not last then
    redis.call('XGROUP', 'CREATE', stream, 'inbox', '0')
    last = '0-0'
  end
  while ended < MOST_ENDED and last ~= '18446744073709551615-18446744073709551615' do
    local head = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
    local who = head and take_mark(KEYS[3], source, head[1])
    if not who then break end
    redis.call('XREADGROUP', 'GROUP', 'inbox', reader, 'COUNT', 1, 'STREAMS', stream, '>')
    end_cancelled(cancelled, stream, source, head[1], who)
    last, ended = head[1], ended + 1
  end
  redis.call('XGROUP', 'DELCONSUMER', stream, 'inbox', reader)
end

for i = 2, #ARGV, 2 do
  answers[#answers + 1] = ARGV[i] == 'due' and cancel_due(ARGV[i + 1]) or mark(tonumber(ARGV[i]), ARGV[i + 1])
end
for source in pairs(touched) do end_heads(source) end
write_cancelled(KEYS[1], KEYS[2], cancelled)
for i, answer in ipairs(answers) do
  if answer == 'marked' and redis.call('HEXISTS', KEYS[3], ARGV[2 * i] .. ' ' .. ARGV[2 * i + 1]) == 0 then
    answers[i] = 'cancelled'
  end
end
return answers
