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

local function is_count(value)
  return type(value) == 'number' and value >= 0 and value < 9007199254740992
end

-- A state that is not a JSON object was written by hand: treat it as absent, and likewise a field of the
-- wrong type. Arithmetic on it would raise an error, and one such entry would keep everything its dead
-- owner held from being taken over.
local function decode_state(text)
  if not text or text == '' then return {} end
  local ok, state = pcall(cjson.decode, text)
  if not ok or type(state) ~= 'table' then return {} end
  for _, field in ipairs({'attempt', 'crashes', 'bounces', 'deferrals', 'expires'}) do
    if not is_count(state[field]) then state[field] = nil end
  end
  for _, field in ipairs({'lane', 'key', 'digest'}) do
    if type(state[field]) ~= 'string' then state[field] = nil end
  end
  return state
end

-- What cannot be written as JSON (a NaN that somebody put in by hand) goes; what scripts need stays.
local function encode_state(state)
  local ok, text = pcall(cjson.encode, state)
  if ok then return text end
  return cjson.encode({
    attempt = state.attempt, crashes = state.crashes, bounces = state.bounces,
    deferrals = state.deferrals, expires = state.expires,
    lane = state.lane, held = state.held and true or nil, key = state.key, digest = state.digest,
  })
end

-- Adds the failure of one attempt, as JSON; '' for none. Python writes lone surrogates (names of files have
-- them) as escapes that this decoder refuses: then the text itself is kept.
local function add_failure(state, text)
  if text == '' then return end
  local ok, failure = pcall(cjson.decode, text)
  state.last_failure = ok and failure or {error = text}
  state.first_failure = state.first_failure or state.last_failure
end

-- Whether an expired message may end without being handed out. A request may not: whoever takes it tells
-- its asker, who would else wait for the whole timeout.
local function ends_unseen(message, state, now)
  if state.expires == nil or state.expires > now then return false end
  return not (message and string.find(message, '"reply_to":"', 1, true))
end

-- Adds message and state (a table, may be empty) to a stream; returns what XADD returned.
local function add_entry(stream, message, state)
  if next(state) == nil then
    return redis.pcall('XADD', stream, '*', 'message', message)
  end
  return redis.pcall('XADD', stream, '*', 'message', message, 'state', encode_state(state))
end

-- Adds the fields of an entry that is no message; those beyond the first hundred go, because Lua cannot
-- unpack thousands of values and the entry would stay with its owner for ever.
local function add_raw(stream, fields)
  return redis.pcall('XADD', stream, '*', unpack(fields, 1, math.min(#fields, 200)))
end

local function failed(reply)
  return type(reply) == 'table' and reply.err
end
