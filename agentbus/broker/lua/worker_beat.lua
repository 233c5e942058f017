#!lua flags=allow-oom
--@include clock
-- Says that a worker process lives and how it does, and learns which others do.
--
-- KEYS   1 workers
-- ARGV   1 worker id   2 what it says of itself (JSON object)   3 forget workers unseen for this long (ms)
-- Returns {server time in ms, id, JSON, id, JSON …}   every worker known, this one included
--
-- `seen_at` is written by the server's clock. Nothing is decided by it but who does which share of the work,
-- and every step of that work is safe when two do it at once.
local now, forget_after = now_ms(), tonumber(ARGV[3])
local mine = cjson.decode(ARGV[2])
mine.seen_at = now
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(mine))
local known = redis.call('HGETALL', KEYS[1])
local reply = {now}
for i = 1, #known, 2 do
  local ok, record = pcall(cjson.decode, known[i + 1])
  local seen = ok and type(record) == 'table' and tonumber(record.seen_at)
  -- Written by somebody's hand, or of a process that died long ago.
  if not seen or now - seen > forget_after then
    redis.call('HDEL', KEYS[1], known[i])
  else
    reply[#reply + 1] = known[i]
    reply[#reply + 1] = known[i + 1]
  end
end
return reply
