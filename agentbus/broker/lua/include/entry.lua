-- Reading stream entries. An entry of ours has the fields `message` and, when needed, `state`.
local SOURCES = {'returned', 'critical', 'high', 'normal', 'low', 'background'}

-- fields -> message text or nil, state text or nil
local function parts(fields)
  if fields[1] == 'message' and (#fields == 2 or (#fields == 4 and fields[3] == 'state')) then
    return fields[2], fields[4]
  end
  local message, state
  for i = 1, #fields, 2 do
    if fields[i] == 'message' then message = fields[i + 1] end
    if fields[i] == 'state' then state = fields[i + 1] end
  end
  return message, state
end

-- A state that is not a JSON object was written by hand: treat it as absent.
local function decode_state(text)
  if not text or text == '' then return {} end
  local ok, state = pcall(cjson.decode, text)
  if ok and type(state) == 'table' then return state end
  return {}
end

local function expired(state, now)
  return type(state.expires) == 'number' and state.expires <= now
end

-- Adds message and state (a table, may be empty) to a stream; returns what XADD returned.
local function add_entry(stream, message, state)
  if next(state) == nil then
    return redis.pcall('XADD', stream, '*', 'message', message)
  end
  return redis.pcall('XADD', stream, '*', 'message', message, 'state', cjson.encode(state))
end

local function failed(reply)
  return type(reply) == 'table' and reply.err
end
