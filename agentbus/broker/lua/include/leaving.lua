-- A dead letter leaves `dead`: it is retried, resolved or dropped.

-- fields of a letter by name, and as they stand; nil when it is not in `dead` (any more).
local function letter_fields(dead, id)
  local entry = redis.call('XRANGE', dead, id, id)[1]
  if not entry then return nil end
  local named = {}
  for f = 1, #entry[2], 2 do named[entry[2][f]] = entry[2][f + 1] end
  return named, entry[2]
end

-- What a notice of it would say stays in a list, where it leaves before a worker announced it; `announced` of
-- the ledger (ms) is how far they came. Short, because a deployment without workers never empties it.
local function announced_until(ledger)
  return tonumber(redis.call('HGET', ledger, 'announced')) or 0
end

local function keep_for_notice(unannounced, announced, id, letter)
  if tonumber(string.match(id, '^%d+')) < announced then return end
  local ok, envelope = pcall(cjson.decode, letter.message or '')
  if not ok or type(envelope) ~= 'table' then envelope = {} end
  local kept = {'letter', id}
  for _, name in ipairs({'reason', 'detail', 'attempts', 'max_retries', 'owner'}) do
    kept[#kept + 1] = name
    kept[#kept + 1] = letter[name] or ''
  end
  local names = {'message_id', 'message_type', 'from_agent', 'session_id', 'correlation_id', 'channel'}
  local known = {}
  for _, name in ipairs(names) do
    if type(envelope[name]) == 'string' then known[name] = envelope[name] end
  end
  kept[#kept + 1] = 'message'
  kept[#kept + 1] = cjson.encode(known)
  redis.pcall('XADD', unannounced, 'MAXLEN', '~', 10000, '*', unpack(kept))
end
