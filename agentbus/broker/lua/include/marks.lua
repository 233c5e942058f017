-- Messages that were cancelled while they waited. An entry that waits is not deleted: the group would lose count
-- of what waits. It is marked in a hash, `<source> <entry id>` to who cancelled it, and ends when its turn comes.

-- Who cancelled an entry, and the mark is gone; nil for one that was not cancelled.
local function take_mark(marks, source, id)
  local name = source .. ' ' .. id
  local by = redis.pcall('HGET', marks, name)
  if type(by) ~= 'string' then return nil end
  redis.call('HDEL', marks, name)
  return by
end

-- Ends an entry that was handed out; `cancelled` collects for `write_cancelled`.
local function end_cancelled(cancelled, stream, source, id, by)
  if redis.call('XACK', stream, 'inbox', id) == 0 then return end
  cancelled[by] = cancelled[by] or {}
  note(cancelled[by], source, id)
end

-- One record for each person: a record names one.
local function write_cancelled(ledger, outcomes, cancelled)
  for by, record in pairs(cancelled) do
    redis.call('HINCRBY', ledger, 'cancelled', record.count)
    write_record(outcomes, by, 'cancelled', record)
  end
end
