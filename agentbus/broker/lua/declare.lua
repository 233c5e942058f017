#!lua flags=allow-oom
-- Declares the policy of an address, once.
--
-- KEYS   1 policy
-- ARGV   field, value, field, value …   all fields of the policy that are set
-- Returns {'declared'} or {'same'}
--         {'conflict', field, stored value or '', declared value or '', …}   nothing was written
--
-- Two processes that declare different policies would take turns in breaking each other's promises.
local stored = redis.call('HGETALL', KEYS[1])
if #stored == 0 then
  if #ARGV > 0 then redis.call('HSET', KEYS[1], unpack(ARGV)) end
  return {'declared'}
end
local before, after, conflicts = {}, {}, {'conflict'}
for i = 1, #stored, 2 do before[stored[i]] = stored[i + 1] end
for i = 1, #ARGV, 2 do after[ARGV[i]] = ARGV[i + 1] end
local function compare(field)
  if before[field] ~= after[field] then
    conflicts[#conflicts + 1] = field
    conflicts[#conflicts + 1] = before[field] or ''
    conflicts[#conflicts + 1] = after[field] or ''
  end
end
for field in pairs(after) do compare(field) end
for field in pairs(before) do
  if after[field] == nil then compare(field) end
end
if #conflicts == 1 then return {'same'} end
return conflicts
