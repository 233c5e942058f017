#!lua flags=allow-oom
-- Names the consumers that are known to a group and are not alive.
--
-- KEYS   1 alive   2 returned   3..7 lane:critical .. lane:background
-- ARGV   none
-- Returns their names, each once
--
-- One step, because a consumer that joins between two commands would look like one that is gone.
local alive = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do alive[name] = true end
local strangers = {}
for i = 2, 7 do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[i], 'inbox')
  -- No stream or no group: nobody holds anything there. A key of another type is the doctor's business.
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local name = consumer[2]
    if not alive[name] then
      alive[name] = true
      strangers[#strangers + 1] = name
    end
  end
end
return strangers
