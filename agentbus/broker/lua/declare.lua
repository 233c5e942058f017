#!lua flags=allow-oom
-- Declares the policy of an address, or of one message type there, by compare-and-set.
--
-- KEYS   1 policy
-- ARGV   1 scope: '' for the address, else the message type
--        2 how many of the next arguments are what is expected to be stored
--        3 .. field, value, field, value …   first those expected, then all that are to be stored
-- Returns {'declared' | 'same' | 'conflict', field, value …}   what was stored for this scope before
--
-- Fields of a message type are stored as `<type>:<field>`; a type holds no colon. The field `topics` names the
-- types with a time to live or durability of their own: without it, publish.lua looks for none.
-- Atomic because two processes that declare different policies would take turns in breaking each other's
-- promises: one of them must see the other's.
local key, scope, expected_count = KEYS[1], ARGV[1], tonumber(ARGV[2])

local function pairs_of(from, to)
  local fields = {}
  for i = from, to, 2 do fields[ARGV[i]] = ARGV[i + 1] end
  return fields
end

local function equal(one, other)
  for field, value in pairs(one) do if other[field] ~= value then return false end end
  for field in pairs(other) do if one[field] == nil then return false end end
  return true
end

local before, reply = {}, {}
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do
  local type_of, field = string.match(stored[i], '^([^:]*):(.*)$')
  if (type_of or '') == scope and stored[i] ~= 'topics' then
    before[field or stored[i]] = stored[i + 1]
    reply[#reply + 1] = field or stored[i]
    reply[#reply + 1] = stored[i + 1]
  end
end
local expected = pairs_of(3, 2 + expected_count)
local wanted = pairs_of(3 + expected_count, #ARGV)

local function answer(word)
  table.insert(reply, 1, word)
  return reply
end

if equal(before, wanted) then return answer('same') end
if not equal(before, expected) then return answer('conflict') end

local prefix = scope == '' and '' or scope .. ':'
for field, value in pairs(wanted) do redis.call('HSET', key, prefix .. field, value) end
for field in pairs(before) do
  if wanted[field] == nil then redis.call('HDEL', key, prefix .. field) end
end
if scope ~= '' then
  local topics, seen = {}, {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local type_of = string.match(name, '^([^:]*):ttl_ms$') or string.match(name, '^([^:]*):durability$')
    if type_of and not seen[type_of] then
      seen[type_of] = true
      topics[#topics + 1] = type_of
    end
  end
  table.sort(topics)
  if #topics > 0 then
    redis.call('HSET', key, 'topics', table.concat(topics, ' '))
  else
    redis.call('HDEL', key, 'topics')
  end
end
return answer('declared')
