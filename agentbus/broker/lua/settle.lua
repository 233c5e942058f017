#!lua flags=allow-oom
-- Ends a batch of deliveries with one outcome.
--
-- KEYS   1 alive   2 ledger   3 outcomes   4 returned   5..9 lane:critical .. lane:background
-- ARGV   1 consumer   2 outcome: processed, expired or discarded   3, 4 .. source and its entry ids, joined by spaces
-- Returns {'settled', how many were still pending}; {'fenced'} when the consumer lost its lease.
--
-- One check of the consumer guards the whole batch: reclaim deletes the field in the same script that takes
-- its first entry, so whatever is pending here is the consumer's own. A repeated call finds nothing pending
-- and writes nothing. A stream that refuses does not keep the others' part from being counted. The entries stay
-- as history until they are trimmed. When fewer were pending than listed the record says how many in `count`:
-- the rest ended before, by a record of their own.
local SOURCES = {'returned', 'critical', 'high', 'normal', 'low', 'background'}
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'fenced'} end
local settled, listed, record, problem = 0, 0, {}, nil
for i = 3, #ARGV, 2 do
  local source, ids = tonumber(ARGV[i]), {}
  for id in string.gmatch(ARGV[i + 1], '%S+') do ids[#ids + 1] = id end
  -- Lua cannot unpack more than some 8,000 values.
  for from = 1, #ids, 4000 do
    local last = math.min(from + 3999, #ids)
    local count = redis.pcall('XACK', KEYS[4 + source], 'inbox', unpack(ids, from, last))
    if type(count) ~= 'number' then
      problem = count
    elseif count > 0 then
      settled, listed = settled + count, listed + last - from + 1
      record[#record + 1] = SOURCES[source + 1]
      record[#record + 1] = #ids <= 4000 and ARGV[i + 1] or table.concat(ids, ' ', from, last)
    end
  end
end
if settled < listed then
  record[#record + 1] = 'count'
  record[#record + 1] = settled
end
if settled > 0 then
  redis.call('HINCRBY', KEYS[2], ARGV[2], settled)
  redis.call('XADD', KEYS[3], '*', 'consumer', ARGV[1], 'outcome', ARGV[2], unpack(record))
end
if problem then return redis.error_reply(problem.err) end
return {'settled', settled}
