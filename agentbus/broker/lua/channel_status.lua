#!lua flags=allow-oom
--@include clock
-- Counts what the log of a channel holds, without walking through it.
--
-- KEYS   1 log   2 ledger   3 policy
-- Returns {server ms, length, entries ever added, last id, first id or '', accepted, added by scripts,
--          limit by policy or '', subscribing agents}
--
-- Atomic because the numbers are compared with each other. It writes nothing; bodies are not sent.
local facts = {}
if redis.call('XLEN', KEYS[1]) > 0 or redis.call('EXISTS', KEYS[1]) == 1 then
  local flat = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #flat, 2 do facts[flat[i]] = flat[i + 1] end
end
local first = facts['first-entry']
local counters = redis.call('HMGET', KEYS[2], 'accepted', 'added:log')
return {
  now_ms(), facts.length or 0, facts['entries-added'] or 0, facts['last-generated-id'] or '0-0',
  first and first[1] or '', counters[1] or '0', counters[2] or '0', redis.call('HGET', KEYS[3], 'limit') or '',
  facts.groups or 0,
}
