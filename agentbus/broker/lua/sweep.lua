#!lua flags=allow-oom
--@include clock
-- Lists lanes that have something waiting and are not in the index: a hand-made XADD does not know of it.
-- Counts hand-made entries in the ledger, so that the limit of the address neither forgets nor forgives them.
--
-- KEYS   1 lanes   2 returned   3..7 lane:critical .. lane:background   8 ledger
-- ARGV   none
-- Returns {1 if anything waits, server time in ms}
local ALLOWANCE = {0, -600000, 0, 2000, 30000, 300000}
local SOURCES = {'returned', 'critical', 'high', 'normal', 'low', 'background'}
local now, waiting, handmade = now_ms(), 0, 0
local ledger = redis.call('HMGET', KEYS[8], 'handmade', 'added:returned', 'added:critical', 'added:high',
  'added:normal', 'added:low', 'added:background')

-- Entries that no script added; a stream that was deleted and made anew counts none until it has caught up.
local function added_by_hand(stream, by_scripts)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for f = 1, #info, 2 do
    if info[f] == 'entries-added' then return math.max(0, info[f + 1] - (tonumber(by_scripts) or 0)) end
  end
  return 0
end

for i = 1, 6 do
  handmade = handmade + added_by_hand(KEYS[1 + i], ledger[1 + i])
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1 + i])
  local last = '0-0'
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == 'inbox' then last = fields['last-delivered-id'] end
  end
  -- Behind the largest id (a hand-made entry) the server refuses to look, with an error.
  local more = not groups.err and last ~= '18446744073709551615-18446744073709551615'
  local head = more and redis.call('XRANGE', KEYS[1 + i], '(' .. last, '+', 'COUNT', 1)[1]
  if head then
    waiting = 1
    local time = math.min(tonumber(string.match(head[1], '^%d+')), now)
    if i > 1 then redis.call('ZADD', KEYS[1], 'NX', time + ALLOWANCE[i], SOURCES[i]) end
  end
end
if handmade ~= (tonumber(ledger[1]) or 0) then redis.call('HSET', KEYS[8], 'handmade', handmade) end
return {waiting, now}
