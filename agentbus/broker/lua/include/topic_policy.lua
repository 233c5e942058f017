-- What single message types of an address have declared for their publishing.

-- topics: the policy's field of that name, or nil. Returns type -> time to live in ms, and `durability` with
-- ` <type>=<level>` appended for each type that has its own.
local function topic_policies(policy, topics, durability)
  local ttls, levels = {}, {durability}
  for message_type in string.gmatch(topics, '%S+') do
    local own = redis.call('HMGET', policy, message_type .. ':ttl_ms', message_type .. ':durability')
    ttls[message_type] = tonumber(own[1])
    if own[2] then levels[#levels + 1] = message_type .. '=' .. own[2] end
  end
  return ttls, table.concat(levels, ' ')
end

-- The type stands before anything that a sender writes freely; within a JSON text its quotes are escaped.
local function type_of(message)
  return string.match(message, '"message_type":"([^"]*)"') or ''
end
