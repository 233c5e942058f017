#!lua flags=allow-oom
--@include clock
-- Hands the addresses whose time has come to one worker.
--
-- KEYS   1 a sorted set of addresses by time: `wake`, `ticking` or `owing`
-- ARGV   1 most addresses   2 how long a claim lasts (ms)
-- Returns {server time in ms, earliest score left or '', address, time it was due, score of the claim, …}
--
-- A claim is nothing but a later score: a worker that dies with it delays its addresses until then, and
-- nobody has to find out that it died.
local now = now_ms()
local ends = now + tonumber(ARGV[2])
local due = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1], 'WITHSCORES')
local reply = {now, ''}
for i = 1, #due, 2 do
  redis.call('ZADD', KEYS[1], ends, due[i])
  reply[#reply + 1] = due[i]
  reply[#reply + 1] = due[i + 1]
  reply[#reply + 1] = ends
end
reply[2] = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] or ''
return reply
