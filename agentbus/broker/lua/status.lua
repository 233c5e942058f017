#!lua flags=allow-oom
--@include clock
--@include entry
-- Counts what an inbox holds, without walking through any of it.
--
-- KEYS   1 ledger   2 alive   3 due   4 dead   5..10 returned, lane:critical .. lane:background
-- ARGV   names of counters in the ledger
-- Returns {server ms, consumers, in flight, due, next due (ms) or -1, dead, oldest waiting (ms, its time) or -1,
--          six depths (-1: the server has lost count), the counters as text or false}
--
-- Atomic because the numbers are compared with each other. It writes nothing; bodies are not sent.
local oldest, in_flight = -1, 0
local depths = {}

-- The group's lag is the number of waiting entries. The server loses count when the entry that was
-- handed out last is deleted (a retry, a dead letter); without a group everything in the stream waits.
local function look(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if failed(groups) then
    -- XLEN raises for a key of another type, and is 0 for one that is not there.
    return redis.call('XLEN', stream), '0-0'
  end
  for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts.name == 'inbox' then
      in_flight = in_flight + facts.pending
      return facts.lag or -1, facts['last-delivered-id']
    end
  end
  return redis.call('XLEN', stream), '0-0'
end

for i = 1, 6 do
  local depth, delivered = look(KEYS[4 + i])
  depths[i] = depth
  -- After the largest id there is nothing, and asking for it is an error.
  if depth ~= 0 and delivered ~= '18446744073709551615-18446744073709551615' then
    local first = redis.call('XRANGE', KEYS[4 + i], '(' .. delivered, '+', 'COUNT', 1)
    if #first > 0 then
      local at = tonumber(string.match(first[1][1], '^%d+'))
      if oldest < 0 or at < oldest then oldest = at end
    elseif depth < 0 then
      depths[i] = 0
    end
  end
end

local next_due = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
local reply = {
  now_ms(), redis.call('HLEN', KEYS[2]), in_flight, redis.call('ZCARD', KEYS[3]),
  next_due[2] and math.floor(tonumber(next_due[2])) or -1, redis.call('XLEN', KEYS[4]), oldest,
}
for i = 1, 6 do reply[#reply + 1] = depths[i] end
for _, counter in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV))) do reply[#reply + 1] = counter end
return reply
