-- Dead letters: what a burial writes, and what happens where there is no room for it.

-- How long a dead letter is parked where there is no room for it, and how many are kept without a policy.
local PARKED_MS, DEAD_LIMIT = 600000, 100000

-- Whether there is room for one more. Resolved ones go first, some at a time, except where an archive is on:
-- it may not have them yet, and trims them itself. Asked with pcall: a key of the wrong type must not keep a
-- burial, or a whole takeover, from going on.
local function dead_room(dead, resolved, policy, ledger)
  local declared = redis.pcall('HGET', policy, 'dead_limit')
  local limit = type(declared) == 'string' and tonumber(declared) or DEAD_LIMIT
  local letters, kept = redis.pcall('XLEN', dead), redis.pcall('XLEN', resolved)
  if type(letters) ~= 'number' then return true end
  if letters >= limit then return false end
  if type(kept) ~= 'number' then return true end
  local excess = math.min(letters + 1 + kept - limit, kept, 100)
  if excess > 0 and redis.call('HGET', ledger, 'archiving') ~= '1' then
    redis.pcall('XTRIM', resolved, 'MAXLEN', kept - excess)
  end
  return true
end

-- Fields of a letter beside `state` and `message`.
local function letter_of(reason, detail, lane, entry, owner, attempts, max_retries)
  return {
    'reason', reason, 'detail', detail, 'lane', lane, 'entry', entry, 'owner', owner,
    'attempts', attempts, 'max_retries', max_retries,
  }
end

-- What an entry that is no message held, bytes and all; beyond a hundred fields only their number: Lua cannot
-- unpack thousands of values.
local function keep_raw(letter, fields)
  if #fields > 200 then
    letter[#letter + 1] = 'raw_fields'
    letter[#letter + 1] = #fields / 2
  end
  for i = 1, math.min(#fields, 200), 2 do
    letter[#letter + 1] = 'raw:' .. fields[i]
    letter[#letter + 1] = fields[i + 1]
  end
end

-- Adds one dead letter; returns its id, or what the server answered (err).
local function add_letter(dead, letter, message, state)
  local fields = {unpack(letter, 1, math.min(#letter, 250))}
  state.parked, state.held = nil, nil
  fields[#fields + 1] = 'state'
  fields[#fields + 1] = encode_state(state)
  if message then
    fields[#fields + 1] = 'message'
    fields[#fields + 1] = message
  end
  return redis.pcall('XADD', dead, '*', unpack(fields))
end

local function message_id_of(message, entry)
  local ok, envelope = pcall(cjson.decode, message or '')
  local id = ok and type(envelope) == 'table' and envelope.message_id
  return type(id) == 'string' and id ~= '' and id or 'entry-' .. entry
end

-- Puts a dead letter without room into `due`, where promote looks after it; returns {due, message id}, or
-- what the server answered (err). Its letter travels in the state, so that no handler runs it again.
local function park(due_key, delayed, nudge, entry, letter, message, state, now)
  -- An empty body in `delayed` means none; the text of a message that is empty travels with its letter.
  if message == '' then
    letter[#letter + 1] = 'message'
    letter[#letter + 1] = ''
  end
  state.parked, state.held = letter, true
  local id = message_id_of(message, entry)
  local added = add_due(due_key, delayed, nudge, id, message or '', state, now + PARKED_MS)
  if failed(added) then return added end
  return {now + PARKED_MS, id}
end
