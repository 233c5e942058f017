-- Noting that copies of messages are owed, in the step that stores them.

-- owed: {ids, notes, of, grace, most} of a batch: for each message its id, or '' where nothing is owed; what is
-- noted ('<agents> <JSON>'), and which of these for each message, the first where `of` is missing; after how many
-- ms others than the publisher make the copies; of how many messages copies may be owed here. What is noted is
-- collected by `add` and written at once by `write`: a call for each message would cost as much as storing it.
local function debt_book(owed_key, messages_key, owed, now)
  local book, fields, scores = {}, {}, {}
  -- Asked before anything is written: a key of another type would end the step half done.
  redis.call('HLEN', messages_key)
  local size = redis.call('ZCARD', owed_key)

  function book.has(i) return owed.ids[i] ~= '' end

  -- The refusal where too many copies are owed, else nil.
  function book.full() return size >= owed.most and string.format('!full owed %d', size) or nil end

  -- place: '<lane>:<entry>', '-' while it is delayed.
  function book.add(i, place, message)
    local note = owed.notes[owed.of and owed.of[i] or 1]
    fields[#fields + 1] = owed.ids[i]
    fields[#fields + 1] = string.format('%.0f %s %s\n', now, place, note) .. message
    scores[#scores + 1] = now + owed.grace
    scores[#scores + 1] = owed.ids[i]
    size = size + 1
  end

  -- Bodies before index: an index never points at nothing.
  function book.write()
    for first = 1, #fields, 2000 do
      local last = math.min(first + 1999, #fields)
      redis.call('HSET', messages_key, unpack(fields, first, last))
      redis.call('ZADD', owed_key, unpack(scores, first, last))
    end
  end

  return book
end
