#!lua flags=allow-oom
-- Ends deliveries of a channel's messages for one agent.
--
-- KEYS   1 alive   2 subscriber   3 log   4 crashes   5 reads
-- ARGV   1 consumer   2 the agent   3 processed, expired, discarded or moved   4 entry ids, joined by spaces
-- Returns {'settled', how many were still pending}; {'fenced'} when the consumer lost its lease.
--
-- The message stays in the log: it is ended for this agent alone. A repeated call finds nothing pending and
-- writes nothing. Where one consumer reads at a time a long batch follows the log: its record is its first and
-- last entry, or a thousand subscribers would fill the server with records.
local LONGEST_LIST = 8
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local ids, settled = {}, 0
for id in string.gmatch(ARGV[4], '%S+') do ids[#ids + 1] = id end
-- Lua cannot unpack more than some 8,000 values.
for from = 1, #ids, 4000 do
  local last = math.min(from + 3999, #ids)
  settled = settled + redis.call('XACK', KEYS[3], ARGV[2], unpack(ids, from, last))
  redis.call('HDEL', KEYS[4], unpack(ids, from, last))
end
if settled > 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[3], settled)
  local record = ARGV[4]
  if #ids > LONGEST_LIST and redis.call('HGET', KEYS[2], 'active') == ARGV[1] then
    record = ids[1] .. '..' .. ids[#ids]
  end
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', 1000, '*', ARGV[3], record)
end
return {'settled', settled}
