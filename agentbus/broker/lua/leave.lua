#!lua flags=allow-oom
-- A consumer that holds nothing goes.
--
-- KEYS   1 alive   2 started   3 returned   4..8 lanes
-- ARGV   1 consumer
-- Returns {'left', entries still pending}
--
-- DELCONSUMER with pending entries would lose them for ever; in that case the name stays in the group and
-- the next sweep takes what it holds, since a name that is not in `alive` holds nothing by right.
-- A takeover that is under way still needs to know which suspect a fenced consumer had started.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then redis.call('HDEL', KEYS[2], ARGV[1]) end
local left = 0
for i = 3, 8 do
  local pending = redis.pcall('XPENDING', KEYS[i], 'inbox')
  if not pending.err then
    local held = 0
    for _, owner in ipairs(pending[4] or {}) do
      if owner[1] == ARGV[1] then held = tonumber(owner[2]) end
    end
    if held == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[i], 'inbox', ARGV[1]) end
    left = left + held
  end
end
-- Nothing is left to be charged for: what a takeover noted of it has nobody else to remove it.
if left == 0 then redis.call('HDEL', KEYS[2], ARGV[1], ARGV[1] .. ' charges') end
return {'left', left}
