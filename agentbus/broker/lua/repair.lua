#!lua
-- Gives a stream that takes no more entries (its last id is the largest possible) a new stream.
--
-- KEYS   1 the stream   2 a free key, used within this script only   3 cancelled
-- ARGV   1 most waiting entries to copy   2 the stream's place among the sources
-- Returns {'repaired', entries copied, entries of history dropped}
--         {'healthy'}   {'held', how many are in flight}   {'many', how many wait}   {'unreadable', entry id}
--
-- XSETID cannot go below an id that was ever in a stream, deleted or not, so the waiting entries move to a
-- new stream under the same name, in order and with new ids. One script, because a publish in between would
-- be lost. Refused while anything is in flight: its owner would settle an id that is gone, and the copy
-- would be handled a second time. Not allow-oom: for a moment there are two copies.
local LARGEST = '18446744073709551615-18446744073709551615'
local most = tonumber(ARGV[1])

local function fields_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

if redis.call('EXISTS', KEYS[1]) == 0 then return {'healthy'} end
local stream = fields_of(redis.call('XINFO', 'STREAM', KEYS[1]))
if stream['last-generated-id'] ~= LARGEST then return {'healthy'} end
local position, group = '0-0', false
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = fields_of(flat)
  if fields.name == 'inbox' then
    position, group = fields['last-delivered-id'], true
    if fields.pending > 0 then return {'held', fields.pending} end
  end
end

redis.call('DEL', KEYS[2])
local copied, last, new_ids = 0, '0-0', {}
while position ~= LARGEST do
  local entries = redis.call('XRANGE', KEYS[1], '(' .. position, '+', 'COUNT', 10)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    copied = copied + 1
    local ok, id = pcall(function() return redis.call('XADD', KEYS[2], '*', unpack(entry[2])) end)
    if copied > most or not ok then
      redis.call('DEL', KEYS[2])
      if not ok then return {'unreadable', entry[1]} end
      return {'many', copied}
    end
    position, last = entry[1], id
    new_ids[#new_ids + 1] = {entry[1], id}
  end
end

-- The ledger finds hand-made entries by the number ever added; the group's lag counts on it too.
local added = stream['entries-added']
redis.call('XGROUP', 'CREATE', KEYS[2], 'inbox', '0', 'MKSTREAM', 'ENTRIESREAD', added - copied)
redis.call('XSETID', KEYS[2], last, 'ENTRIESADDED', added, 'MAXDELETEDID', '0-0')
if not group then redis.call('XGROUP', 'DESTROY', KEYS[2], 'inbox') end
redis.call('RENAME', KEYS[2], KEYS[1])
-- What was cancelled and waits still is marked by its entry id.
if redis.call('EXISTS', KEYS[3]) == 1 then
  for _, pair in ipairs(new_ids) do
    local by = redis.pcall('HGET', KEYS[3], ARGV[2] .. ' ' .. pair[1])
    if type(by) == 'string' then
      redis.call('HDEL', KEYS[3], ARGV[2] .. ' ' .. pair[1])
      redis.call('HSET', KEYS[3], ARGV[2] .. ' ' .. pair[2], by)
    end
  end
end
return {'repaired', copied, stream.length - copied}
