-- One agent's place in the log of a channel: a consumer group named after it.

-- What is pending for a consumer, oldest first.
local function pending_of(log, group, consumer, most)
  local pending = redis.pcall('XPENDING', log, group, '-', '+', most, consumer)
  if type(pending) ~= 'table' or pending.err then return {} end
  return pending
end

local function is_pending(log, group, consumer, id)
  local pending = redis.pcall('XPENDING', log, group, id, id, 1, consumer)
  return type(pending) == 'table' and not pending.err and #pending > 0
end

-- A consumer that holds nothing goes; with entries pending DELCONSUMER would lose them for ever.
local function remove_if_idle(log, group, consumer)
  if #pending_of(log, group, consumer, 1) == 0 then
    redis.pcall('XGROUP', 'DELCONSUMER', log, group, consumer)
  end
end

-- {entries added in all, entries removed so far, id of the last one ever}
local function log_facts(log)
  local flat = redis.pcall('XINFO', 'STREAM', log)
  local facts = {}
  for f = 1, flat.err and 0 or #flat, 2 do facts[flat[f]] = flat[f + 1] end
  local added = facts['entries-added'] or 0
  return added, added - (facts.length or 0), facts['last-generated-id'] or '0-0'
end
