-- Noting that copies of a message are owed, in the step that stores it.

-- Asked before anything is written: a key of another type would end the step half done. Returns how many
-- messages there are whose copies are owed.
local function count_owed(owed, messages)
  redis.call('HLEN', messages)
  return redis.call('ZCARD', owed)
end

-- note: {id, agents, about, grace} as the publisher made it; place: '<lane>:<entry>', '-' while it is delayed.
-- Body before index: an index never points at nothing.
local function owe(owed, messages, note, place, message, now)
  local line = string.format('%.0f %s %s %s\n', now, place, note.agents, note.about)
  redis.call('HSET', messages, note.id, line .. message)
  redis.call('ZADD', owed, now + note.grace, note.id)
end
