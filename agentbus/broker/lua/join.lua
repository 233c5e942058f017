#!lua flags=allow-oom
--@include clock
-- Makes a consumer known at an address, with the groups it reads from.
--
-- KEYS   1 alive   2 ledger   3 returned   4..8 lane:critical .. lane:background
-- ARGV   1 consumer   2 its lease in ms, '' when it has not said
-- Returns {'joined', server time in ms, ms since when the address is served, 1 if it was served before}
--         {'taken'}   the name is in use
--
-- Groups begin at 0: what was published before anybody served the address is delivered. Only this script
-- creates a field in `alive`; allow-oom because a full server must be able to drain.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return {'taken'} end
for i = 3, 8 do
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[i], 'inbox', '0', 'MKSTREAM')
  if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
    return redis.error_reply(made.err .. ' key ' .. KEYS[i])
  end
end
local now = now_ms()
local first = redis.call('HSETNX', KEYS[2], 'served', now)
redis.call('HSET', KEYS[1], ARGV[1], '0 0 serving' .. (ARGV[2] ~= '' and ' ' .. ARGV[2] or ''))
return {'joined', now, tonumber(redis.call('HGET', KEYS[2], 'served')), 1 - first}
