-- Adding to `due` and `delayed`.

-- Puts one message there; returns its name, which begins with `id`, or what the server answered (err, key)
-- when it refused: then nothing is written. Body before index: an index never points at nothing.
local function add_due(due_key, delayed, nudge, id, message, state, due)
  -- Both fields must be free: a message named x and another one named x:state would overwrite each other.
  while true do
    local taken = redis.pcall('HMGET', delayed, id, id .. ':state')
    if failed(taken) then return {err = taken.err, key = delayed} end
    if not taken[1] and not taken[2] then break end
    id = id .. '+'
  end
  local wrote = redis.pcall('HSET', delayed, id, message, id .. ':state', encode_state(state))
  if failed(wrote) then return {err = wrote.err, key = delayed} end
  local earliest = redis.pcall('ZRANGE', due_key, 0, 0, 'WITHSCORES')
  local indexed = failed(earliest) and earliest or redis.pcall('ZADD', due_key, due, id)
  if failed(indexed) then
    redis.call('HDEL', delayed, id, id .. ':state')
    return {err = indexed.err, key = due_key}
  end
  -- pcall: rules of access often forbid channels (Redis does by default), and a nudge guards nothing.
  if #earliest == 0 or due < tonumber(earliest[2]) then redis.pcall('PUBLISH', nudge, due) end
  return id
end
